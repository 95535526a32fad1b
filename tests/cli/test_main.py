"""The command ``reslink``: version, help, completion and invalid values."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink import __version__
from reslink.cli.main import _output_stream, app, make_app


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("export", "ct", "--format", "onxx"),
            "'onxx' is not one of 'onnx', 'openvino', 'torch-export', 'monai', 'hf'. Did you mean 'onnx'?",
        ),
        (("dicom", "answer", "ct", "x", "--map", "final"), "Did you mean 'final_attention'?"),
        (("export", "ct", "--format", "zzz"), "'zzz' is not one of 'onnx', 'openvino', 'torch-export', 'monai', 'hf'. "),
    ],
)
def test_an_invalid_value_suggests_the_nearest(words: tuple[str, ...], told: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    said = " ".join(result.stderr.replace("│", " ").split()) + " "
    assert told in said
    assert "Value error" not in said


def test_version() -> None:
    assert invoke("--version").stdout == f"reslink {__version__}\n"


def test_no_words_show_the_help() -> None:
    assert "Usage: reslink" in invoke().output


def test_completion_for_the_shell_is_there() -> None:
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is the one named, not our parent
    words = [sys.executable, "-m", "reslink", "--show-completion", "bash"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=named)
    assert "_RESLINK_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("encoding", "written"), [("ascii", rb"\xc4 \u2192"), ("iso-8859-1", b"\xc4 \\u2192"), ("utf-8", "Ä →".encode())]
)
def test_a_terminal_of_any_encoding_shows_every_text(encoding: str, written: bytes) -> None:
    raw = io.BytesIO()
    stream = _output_stream(io.TextIOWrapper(raw, encoding=encoding))
    stream.write("Ä →")
    stream.flush()
    assert raw.getvalue() == written


def test_without_a_standard_output_the_command_still_works() -> None:
    with _output_stream(None) as stream:
        assert stream.write("text") == 4


@pytest.mark.parametrize(
    ("option", "suggested"), [("--ou", "--out"), ("--jsn", "--json"), ("--only", None), ("--no-quiet", None), ("--max", None)]
)
def test_only_an_option_of_the_same_meaning_is_suggested(option: str, suggested: str | None) -> None:
    said = " ".join(invoke("evaluate", "b", "d", option, "x").stderr.replace("│", " ").split())
    assert f"No such option: {option}" in said
    assert ("Possible options" in said) == (suggested is not None)
    assert suggested is None or f"(Possible options: {suggested})" in said


PREDICT = """
import sys
from reslink.cli.main import main
try:
    main(sys.argv[1:])
finally:
    commands = sorted(name for name in sys.modules if name.startswith("reslink.cli.commands."))
    slow = sorted({"scipy.special", "scipy.stats", "yaml", "torch", "sklearn", "pandas", "matplotlib"} & set(sys.modules))
    print(commands, slow, file=sys.stderr)
"""


def test_a_prediction_imports_its_command_only_and_no_slow_package(built_zoo: Path, ring_heads: Path) -> None:
    file = next(ring_heads.rglob("*.png"))
    words = [sys.executable, "-c", PREDICT, "predict", str(built_zoo / "ct"), str(file), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.count("probabilities") == 1
    assert done.stderr.splitlines()[-1] == "['reslink.cli.commands.predict'] []"


def test_the_help_of_one_command_and_that_of_all_name_the_same_options() -> None:
    one = CliRunner(env={"COLUMNS": "160"}).invoke(make_app("predict"), ["predict", "--help"])
    assert one.stdout == invoke("predict", "--help").stdout
    assert invoke("nonsense").stderr == CliRunner(env={"COLUMNS": "160"}).invoke(make_app("nonsense"), ["nonsense"]).stderr


EARLY = """
import sys
from reslink.cli.main import app
from typer.testing import CliRunner
for line in sys.stdin:
    *words, expected = line.rstrip("\\n").split("|")
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    heavy = sorted({"torch", "sklearn", "pandas", "onnxruntime"} & set(sys.modules))
    assert result.exit_code == 2 and expected in " ".join(result.stderr.split()) and not heavy, (words, result.stderr, heavy)
"""


def test_a_typing_error_is_reported_before_anything_heavy_is_imported(
    tmp_path: Path, built_zoo: Path, ring_heads: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,lable\na.png,x\n")
    ct, out = built_zoo / "ct", tmp_path / "out"
    lines = [
        f"train|{ring_heads}|--out|{out}|--set|trainer.epoch=3|Did you mean 'trainer.epochs'?",
        f"train|{ring_heads}|--out|{out}|--recipe|contex_20|Did you mean 'context_20'?",
        f"train|{ring_heads}|--out|{out}|--set|model.variant=reslink_smal|Did you mean 'reslink_small'?",
        f"train|{table}|--out|{out}|has no column 'label'",
        f"train|{tmp_path / 'none'}|--out|{out}|does not exist",
        f"predict|{ct}|{ring_heads}|--device|cpuu|Did you mean 'cpu'?",
        f"predict|{ct}|{ring_heads}|--backend|onnxruntim|Did you mean 'onnxruntime'?",
        f"explain|{ct}|{ring_heads}|--out|{out}|--class|Tumour|Did you mean 'Tumor'?",
        f"explain|{ct}|{ring_heads}|--out|{out}|--method|gradcam|Did you mean 'grad_cam'?",
        f"evaluate|{ct}|{ring_heads}|--out|{out}|--by|splitt|Did you mean 'split'?",
        f"split|{ring_heads}|--out|{out}|--folds|1|--folds",
        f"audit|{tmp_path / 'none'}|does not exist",
        f"calibrate|{ct}|{ring_heads}|--operating-point|yuden|Did you mean 'youden'?",
        f"compare|{ct}|{tmp_path / 'none'}|--data|{ring_heads}|{tmp_path.name}",
        f"experiment|ablation|{ring_heads}|--out|{out}|--set|trainer.epoch=3|Did you mean 'trainer.epochs'?",
        f"experiment|robustness|{ct}|{ring_heads}|--out|{out}|--only|noize|Did you mean 'noise'?",
        f"external|{ct}|{ring_heads}|--out|{out}|--map|x=Tumour|Did you mean 'Tumor'?",
        "describe|reslink_smal|Did you mean 'reslink_small'?",
    ]
    words = [sys.executable, "-c", EARLY]
    done = subprocess.run(words, input="\n".join(lines), capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not out.exists()
