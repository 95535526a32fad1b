"""Commands that need no trained model, and the parts of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink import __version__
from reslink.cli.commands import doctor, info
from reslink.cli.commands.explain import localization_rows
from reslink.cli.commands.phantom import parse_settings
from reslink.cli.main import app
from reslink.errors import UsageError
from reslink.explain.explain_files import Explanation

COMMANDS = (
    *("demo", "split", "train", "evaluate", "models", "predict", "explain"),
    *("audit", "report", "describe", "bench", "phantom", "info", "doctor"),
)


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        *(
            ("--out", ("phantom",)),
            ("--out", ("demo",)),
            ("--out", ("train", "data")),
            ("--out", ("experiment", "epochs", "data")),
        ),
        *(("--out", ("experiment", "robustness", "ct", "data")), ("--out", ("experiment", "transfer", "ct", "data"))),
        *(("--out", ("explain", "ct", "scan.png")), ("--out", ("evaluate", "ct", "data"))),
        *(("--out", ("data", "download", "sartaj")), ("--out", ("data", "import", "data"))),
        ("--out", ("dicom", "answer", "ct", "series")),
        ("--queue", ("dicom", "listen", "ct", "--send-to", "PACS@127.0.0.1:104")),
        ("--queue", ("dicom", "watch", "ct", "--url", "http://127.0.0.1/dicom-web")),
    ],
)
def test_a_file_in_place_of_a_folder_is_refused_before_the_work(option: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    for out, named, what in (("mine", "mine", "file"), ("mine/deeper", "mine", "file"), ("lost", "lost", "broken link")):
        result = invoke(*words, option, tmp_path / out)
        assert (result.exit_code, result.stdout) == (2, "")
        told = f"Error: {tmp_path / named} is a {what}.\n  {option} must name a folder.\n  For example, use {option} "
        assert result.stderr.startswith(f"{told}{tmp_path / named}-folder.")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["epochs", "robustness"])
def test_a_file_in_place_of_the_folder_of_an_experiment_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    words = ("ct", "data") if name == "robustness" else ("data",)
    result = invoke("experiment", name, *words, "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / name} is a file.\n  --out must name a folder.\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"reslink {command}" in result.stdout.partition("Examples:")[2]


def test_info_lists_the_capabilities() -> None:
    facts = json.loads(invoke("info", "--json").stdout)
    assert facts["version"] == __version__
    assert facts["variants"] == ["reslink_paper", "reslink_small", "reslink_context"]
    assert {"brain", "subdural", "stroke", "bone", "three"} == set(facts["windows"])
    assert "auroc" in facts["metrics"]
    assert facts["devices"][0] == "cpu"
    assert facts["exit_codes"].keys() == {"0", "1", "2", "3", "130"}
    assert facts["packages"]["torch"] is not None


def test_info_for_people_ends_with_the_research_use_notice() -> None:
    result = invoke("info")
    assert "Research use only" in result.stderr
    assert "variants\treslink_paper, reslink_small, reslink_context" in result.stdout


def test_a_package_that_is_missing_has_no_version() -> None:
    assert info._package_version("no-such-package") is None


def test_describe_agrees_with_the_network() -> None:
    from reslink.networks.analysis import count_parameters
    from reslink.networks.reslink import ResLink, variant_config

    facts = json.loads(invoke("describe", "reslink_small", "--size", "96", "--json").stdout)
    assert facts["parameters"] == count_parameters(ResLink(variant_config("reslink_small")))
    assert facts["input"] == [3, 96, 96]
    assert facts["flops"] == sum(layer["flops"] for layer in facts["layers"])
    sides = [row["side"] for row in facts["attention_cost"]]
    growth = [row["self_attention"] / row["area"] for row in facts["attention_cost"]]
    assert sides == [24, 48, 96]
    assert growth == sorted(growth)


def test_describe_applies_set() -> None:
    both, none = (
        json.loads(invoke("describe", "reslink_paper", "--json", "--set", f"model.attention={kind}").stdout)
        for kind in ("both", "none")
    )
    assert none["parameters"] < both["parameters"]
    assert not [layer for layer in none["layers"] if "attention" in layer["name"]]


def test_describe_for_people() -> None:
    lines = invoke("describe", "reslink_small").stdout.splitlines()
    assert lines[0] == "layer\tkind\tparameters\tMFLOPs"
    assert "map\tarea attention\tdot-product self-attention" in lines


def test_describe_of_a_shipped_model_names_the_right_command(zoo_with_ct: Path) -> None:
    result = invoke("describe", "ct")
    assert result.exit_code == 2
    assert "Error: ct is a shipped model, not a network variant.\n" in result.stderr
    assert "Run reslink models ct.\n" in result.stderr


def test_describe_names_the_nearest_variant() -> None:
    result = invoke("describe", "reslink_smal")
    assert result.exit_code == 2
    assert "Did you mean 'reslink_small'" in result.stderr


def test_phantom_writes_a_cohort(tmp_path: Path) -> None:
    result = invoke("phantom", "--out", tmp_path / "heads", "--patients", "2", "--seed", "1", "--set", "size=128")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'heads' / 'manifest.csv'}\n")
    assert {"images", "masks", "manifest.csv"} <= {path.name for path in (tmp_path / "heads").iterdir()}
    header = (tmp_path / "heads" / "manifest.csv").read_text().splitlines()[0]
    assert header.split(",")[:4] == ["path", "label", "patient_id", "mask"]


def test_phantom_keeps_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    assert invoke("phantom", "--out", tmp_path, "--patients", "2").exit_code == 2
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_phantom_names_the_nearest_setting(tmp_path: Path) -> None:
    result = invoke("phantom", "--out", tmp_path / "heads", "--set", "modalty=CT")
    assert result.exit_code == 2
    assert "modality" in result.stderr


def test_settings_are_parsed_into_a_tree() -> None:
    assert parse_settings(["a.b=1", "a.c=[x, y]", "d=true"]) == {"a": {"b": 1, "c": ["x", "y"]}, "d": True}
    with pytest.raises(UsageError, match="has no '='"):
        parse_settings(["size"])
    with pytest.raises(UsageError, match="is not valid"):
        parse_settings(["size=[1"])
    with pytest.raises(UsageError, match="'a' is both a value and a section"):
        parse_settings(["a=1", "a.b=2"])


def test_doctor_passes_here(tmp_path: Path) -> None:
    found = json.loads(invoke("doctor", "--json", "--out", tmp_path).stdout)
    assert found["ok"] is True
    assert {check["name"] for check in found["checks"]} >= {"python", "packages", "torch", "threads", "memory", "writing"}
    assert not list(tmp_path.iterdir())


def test_doctor_advises_where_something_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor.metadata,
        "requires",
        lambda _: ["torch>=2.6", "no-such-package<3", 'x; extra == "all"', 'pylibjpeg>=2; extra == "dicom"'],
    )
    monkeypatch.setattr(doctor, "_DECODERS", {"no_such_decoder": "dicom"})
    result = invoke("doctor", "--out", tmp_path / "missing")
    assert result.exit_code == 1
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in result.stdout.splitlines()}
    assert rows["packages"][0] == "failed"
    assert "no-such-package" in rows["packages"][1]
    assert "torch" not in rows["packages"][1]
    assert rows["writing"][0] == "failed"
    advice = 'Needed only for compressed DICOM files. Run: python -m pip install "pylibjpeg>=2"'
    assert rows["DICOM decoders"] == ["warning", "missing: no_such_decoder", advice]


def test_doctor_warns_of_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 10_000)
    assert doctor._threads().status == "warning"
    assert "OMP_NUM_THREADS" in doctor._threads().advice


def test_localization_is_averaged_over_the_cases_with_a_lesion_mask() -> None:
    hit = {"pointing_game": 1.0, "energy_inside": 0.5, "iou": 0.2}
    miss = {"pointing_game": 0.0, "energy_inside": 0.1, "iou": None}
    found = [Explanation("a", methods={"final_attention": hit}), Explanation("b", methods={"final_attention": miss})]
    done = [*found, Explanation("c")]
    assert localization_rows(done) == [("final_attention", "2", "0.500", "0.300", "0.200")]
    assert localization_rows([Explanation("a", methods={"final_attention": {"low": 0.0}})]) == []
