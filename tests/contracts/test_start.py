"""What the command may import and open before a verb runs."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from reslink.bundles.zoo import SHIPPED

HEAVY = (
    *("torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "pydicom", "kornia", "captum", "accelerate"),
    *("fsspec", "s3fs", "aiohttp", "pyarrow", "ray"),
)
HELP = """
import sys, json
sys.argv = ["reslink", {words}]
from reslink.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps({{"code": code, "modules": [name for name in {heavy!r} if name in sys.modules]}}))
"""


def run(words: str) -> dict[str, object]:
    program = HELP.format(words=words, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_help_imports_nothing_heavy() -> None:
    assert run("'--help'") == {"code": 0, "modules": []}


def test_help_of_a_verb_imports_nothing_heavy() -> None:
    assert run("'train', '--help'") == {"code": 0, "modules": []}


def test_a_verb_that_needs_torch_is_seen_to_import_it() -> None:
    assert "torch" in run("'info', '--json'")["modules"]  # type: ignore[operator]


TYPING_ERRORS = """
import json, sys
from typer.testing import CliRunner
from reslink.cli.main import app

for line in sys.stdin:
    words = json.loads(line)
    done = CliRunner().invoke(app, words)
    heavy = [name for name in ("torch", "sklearn", "matplotlib", "onnxruntime", "pandas", "ray") if name in sys.modules]
    print(json.dumps([words, done.exit_code, heavy, "bug in reslink" in done.stderr]))
    if heavy:
        break
"""

DATA_ERRORS = (["nowhere"], ["data", "--columns", "label=nope"], ["data", "--columns", "nope=label"])
WRONG: list[list[str]] = [
    *(
        [*command.split(), *words, "--out", "out"]
        for command in ("train", "audit", "evaluate ct", "calibrate ct", "experiment epochs", "experiment robustness ct")
        for words in DATA_ERRORS
    ),
    *(["split", *words, "--out", "split.csv"] for words in DATA_ERRORS),
    *(["compare", "ct", "runs/ct/bundle", "--data", *words] for words in DATA_ERRORS),
    ["train", "data", "--out", "out", "--recipe", "nope"],
    ["train", "data", "--out", "out", "--set", "trainer.epoch=3"],
    ["train", "data", "--out", "out", "--set", "model.variant=reslink_papr"],
    ["train", "data", "--out", "out", "--init", "ctt"],
    ["train", "data", "--out", "out", "--device", "gpu"],
    ["demo", "--out", "out", "--set", "nope=1"],
    *([command, "ctt", "data", "--out", "out"] for command in ("evaluate", "calibrate", "explain")),
    *([command, "mri4", "data", "--out", "out"] for command in ("evaluate", "calibrate")),
    *(
        [command, "ct", "data", "--out", "out", "--split", name]
        for command in ("evaluate", "calibrate")
        for name in ("tst", "test")
    ),
    *([command, "ct", "data", "--out", "out", "--device", "gpu"] for command in ("evaluate", "calibrate", "predict")),
    ["evaluate", "ct", "data", "--out", "out", "--by", "nope"],
    ["calibrate", "ct", "data", "--out", "out", "--coverage", "2"],
    ["calibrate", "ct", "data", "--out", "out", "--operating-point", "nope"],
    ["predict", "ctt", "data"],
    ["predict", "ct", "data", "--backend", "onnx"],
    ["predict", "ct", "data", "--unit", "hux"],
    ["predict", "ct", "data", "--csv", "out.csv", "--on", "rays"],
    ["explain", "ct", "data", "--out", "out", "--class", "Tumr"],
    ["explain", "ct", "data", "--out", "out", "--method", "grad_cm"],
    ["compare", "ct", "ctt", "--data", "data"],
    ["compare", "ct", "ct", "--data", "data"],
    ["compare", "ct", "mri4", "--data", "data"],
    ["compare", "ct", "runs/ct/bundle", "--data", "data", "--split", "test"],
    ["export", "ctt", "--format", "hf", "--out", "out"],
    ["export", "ct", "--format", "hff", "--out", "out"],
    ["export", "ct", "--format", "hf", "--out", "data"],
    ["report", "nowhere"],
    ["report", "data"],
    ["bench", "ctt"],
    ["bench", "ct", "--backend", "onnx"],
    ["describe", "reslink_smal"],
    ["models", "ctt"],
    ["recipes", "defaul"],
    ["runs", "nowhere"],
    ["serve", "ctt", "--port", "0"],
    ["serve", "ct", "--port", "0", "--host", "0.0.0.0"],
    ["data", "download", "nope", "--out", "out"],
    ["data", "import", "nowhere"],
    ["tune", "data", "--out", "out"],
    ["tune", "data", "--out", "out", "--trials", "0"],
    ["tune", "data", "--out", "out", "--trials", "3", "--preset", "quik"],
    ["tune", "nowhere", "--out", "out", "--trials", "3"],
    ["experiment", "robustness", "ct", "data", "--out", "out", "--only", "nois"],
    ["external", "ctt", "data", "--out", "out"],
]
"""Commands with a typing error, where ``data`` has the classes Healthy and Tumor, and no splits."""


def test_a_typing_error_costs_no_slow_import(tmp_path: Path) -> None:
    """All in one process, so that it names the first command that imports something slow."""
    for number in range(12):
        folder = tmp_path / "data" / ("Healthy", "Tumor")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 64), number).save(folder / f"{number}.png")
    names = [path.relative_to(tmp_path / "data") for path in sorted((tmp_path / "data").rglob("*.png"))]
    rows = "".join(f"{name},{name.parent},{number}\n" for number, name in enumerate(names))
    (tmp_path / "data" / "manifest.csv").write_text("path,label,patient_id\n" + rows)
    shutil.copytree(SHIPPED / "ct", tmp_path / "runs" / "ct" / "bundle")
    done = subprocess.run(
        [sys.executable, "-c", TYPING_ERRORS],
        input="\n".join(map(json.dumps, WRONG)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(words, heavy) for words, _, heavy, _ in results if heavy] == []
    assert [words for words, code, _, bug in results if code not in (1, 2) or bug] == []
    assert len(results) == len(WRONG)


def test_help_is_quick() -> None:
    """Measured as processor time, which a busy machine does not change much; on an idle one it is the wall time too."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "reslink", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.6
