"""Verbs that need no trained model, and the small pieces that put a run together."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image as Picture
from typer.testing import CliRunner, Result

from reslink import __version__
from reslink.cli import pipeline
from reslink.cli.commands import doctor, explain, info, predict
from reslink.cli.commands.explain import measured
from reslink.cli.commands.phantom import tree
from reslink.cli.console import Console
from reslink.cli.main import app
from reslink.errors import UsageError
from reslink.explain.run import Explanation
from reslink.inference.classifier import Prediction
from reslink.labels import Labels

VERBS = (
    *("demo", "split", "train", "evaluate", "models", "predict", "explain"),
    *("audit", "report", "describe", "bench", "phantom", "info", "doctor"),
)


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
def test_a_value_that_an_option_does_not_have_names_the_nearest(words: tuple[str, ...], told: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    said = " ".join(result.stderr.replace("│", " ").split()) + " "
    assert told in said
    assert "Value error" not in said


@pytest.mark.parametrize(
    ("option", "words"),
    [
        *(("--out", ("phantom",)), ("--out", ("demo",)), ("--out", ("train", "data")), ("--out", ("study", "epochs", "data"))),
        *(("--out", ("study", "robustness", "ct", "data")), ("--out", ("study", "transfer", "ct", "data"))),
        *(("--out", ("explain", "ct", "scan.png")), ("--out", ("evaluate", "ct", "data"))),
        *(("--out", ("data", "fetch", "sartaj")), ("--out", ("data", "import", "data"))),
        ("--out", ("dicom", "answer", "ct", "series")),
        ("--queue", ("dicom", "listen", "ct", "--send-to", "PACS@127.0.0.1:104")),
        ("--queue", ("dicom", "watch", "ct", "--url", "http://127.0.0.1/dicom-web")),
    ],
)
def test_a_file_in_place_of_a_folder_is_refused_before_the_work(option: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    for out, named, what in (("mine", "mine", "file"), ("mine/deeper", "mine", "file"), ("lost", "lost", "link to nowhere")):
        result = invoke(*words, option, tmp_path / out)
        assert (result.exit_code, result.stdout) == (2, "")
        told = f"Error: {tmp_path / named} is a {what}.\n  {option} names a folder.\n  Write for example {option} "
        assert result.stderr.startswith(f"{told}{tmp_path / named}-folder.")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("study", ["epochs", "robustness"])
def test_a_file_in_place_of_the_folder_of_a_study_is_refused(study: str, tmp_path: Path) -> None:
    (tmp_path / study).write_text("mine")
    words = ("ct", "data") if study == "robustness" else ("data",)
    result = invoke("study", study, *words, "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / study} is a file.\n  --out names a folder.\n")


def test_version() -> None:
    assert invoke("--version").stdout == f"reslink {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_examples(verb: str) -> None:
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert f"reslink {verb}" in result.stdout.partition("Examples:")[2]


def test_no_words_show_the_help() -> None:
    assert "Usage: reslink" in invoke().output


def test_completion_for_the_shell_is_there() -> None:
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is the one named, not our parent
    words = [sys.executable, "-m", "reslink", "--show-completion", "bash"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=named)
    assert "_RESLINK_COMPLETE" in done.stdout


def test_info_names_what_this_installation_can_do() -> None:
    facts = json.loads(invoke("info", "--json").stdout)
    assert facts["version"] == __version__
    assert facts["variants"] == ["reslink_paper", "reslink_small", "reslink_context"]
    assert {"brain", "subdural", "stroke", "bone", "three"} == set(facts["windows"])
    assert "auroc" in facts["metrics"]
    assert facts["devices"][0] == "cpu"
    assert facts["exit_codes"].keys() == {"0", "1", "2", "3", "130"}
    assert facts["packages"]["torch"] is not None


def test_info_for_people_says_research_use_only() -> None:
    result = invoke("info")
    assert "Research use only" in result.stderr
    assert "variants\treslink_paper, reslink_small, reslink_context" in result.stdout


def test_a_package_that_is_missing_has_no_version() -> None:
    assert info._package("no-such-package") is None


def test_describe_agrees_with_the_network() -> None:
    from reslink.networks.analysis import parameters
    from reslink.networks.reslink import ResLink, variant_config

    facts = json.loads(invoke("describe", "reslink_small", "--size", "96", "--json").stdout)
    assert facts["parameters"] == parameters(ResLink(variant_config("reslink_small")))
    assert facts["input"] == [3, 96, 96]
    assert facts["flops"] == sum(layer["flops"] for layer in facts["layers"])
    sides = [row["side"] for row in facts["attention_cost"]]
    growth = [row["self_attention"] / row["area"] for row in facts["attention_cost"]]
    assert sides == [24, 48, 96]
    assert growth == sorted(growth)


def test_describe_honours_set() -> None:
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


def test_describe_of_a_shipped_bundle_names_the_verb_for_it(zoo_with_ct: Path) -> None:
    result = invoke("describe", "ct")
    assert result.exit_code == 2
    assert "Error: ct is a bundle that ships with reslink, not a network variant.\n" in result.stderr
    assert "Run reslink models ct.\n" in result.stderr


def test_describe_names_the_nearest_variant() -> None:
    result = invoke("describe", "reslink_smal")
    assert result.exit_code == 2
    assert "Did you mean 'reslink_small'" in result.stderr


def test_phantom_writes_what_the_issue_says(tmp_path: Path) -> None:
    result = invoke("phantom", "--out", tmp_path / "heads", "--patients", "2", "--seed", "1", "--set", "size=128")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'heads' / 'manifest.csv'}\n")
    assert {"images", "masks", "manifest.csv"} <= {path.name for path in (tmp_path / "heads").iterdir()}
    header = (tmp_path / "heads" / "manifest.csv").read_text().splitlines()[0]
    assert header.split(",")[:4] == ["path", "label", "patient_id", "mask"]


def test_phantom_spares_what_is_not_a_cohort(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    assert invoke("phantom", "--out", tmp_path, "--patients", "2").exit_code == 2
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_phantom_names_the_nearest_setting(tmp_path: Path) -> None:
    result = invoke("phantom", "--out", tmp_path / "heads", "--set", "modalty=CT")
    assert result.exit_code == 2
    assert "modality" in result.stderr


def test_sets_make_a_tree() -> None:
    assert tree(["a.b=1", "a.c=[x, y]", "d=true"]) == {"a": {"b": 1, "c": ["x", "y"]}, "d": True}
    with pytest.raises(UsageError, match="has no '='"):
        tree(["size"])
    with pytest.raises(UsageError, match="cannot be read"):
        tree(["size=[1"])
    with pytest.raises(UsageError, match="'a' is a value and a section"):
        tree(["a=1", "a.b=2"])


def test_doctor_is_content_here(tmp_path: Path) -> None:
    found = json.loads(invoke("doctor", "--json", "--out", tmp_path).stdout)
    assert found["ok"] is True
    assert {check["name"] for check in found["checks"]} >= {"python", "packages", "torch", "threads", "memory", "writing"}
    assert not list(tmp_path.iterdir())


def test_doctor_advises_where_something_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: ["torch>=2.6", "no-such-package<3", 'x; extra == "all"'])
    monkeypatch.setattr(doctor, "_DECODERS", {"no_such_decoder": "dicom"})
    result = invoke("doctor", "--out", tmp_path / "missing")
    assert result.exit_code == 1
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in result.stdout.splitlines()}
    assert rows["packages"][0] == "failed"
    assert "no-such-package" in rows["packages"][1]
    assert "torch" not in rows["packages"][1]
    assert rows["writing"][0] == "failed"
    assert rows["DICOM decoders"] == [
        "warning", "missing: no_such_decoder", 'Only for compressed DICOM: pip install "reslink[dicom]"'
    ]  # fmt: skip


def test_doctor_warns_of_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 10_000)
    assert doctor._threads().status == "warning"
    assert "OMP_NUM_THREADS" in doctor._threads().advice


# Pieces of a run


def test_only_the_test_cases_of_a_run_are_judged(tmp_path: Path) -> None:
    from reslink.datasets.manifest import Case, Manifest
    from reslink.labels import Labels

    cases = tuple(Case(tmp_path / name, "A", name=name) for name in ("a.png", "b.png", "c.png"))
    (tmp_path / "splits.csv").write_text("sample_id,split\na.png,train\nb.png,test\nc.png,validation\n")
    found = pipeline.tested(Manifest(cases, Labels(("A", "B")), tmp_path), tmp_path / "splits.csv")
    assert [(case.name, case.split) for case in found.cases] == [("b.png", "test")]


def estimate(value: float | None, low: float | None, high: float | None, method: str) -> dict[str, Any]:
    return {"estimate": value, "ci_low": low, "ci_high": high, "method": method, "n": 4}


def test_figures_show_intervals_and_say_why_one_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"auroc": estimate(0.9, 0.8, 1.0, "bootstrap"), "ppv": estimate(None, None, None, "undefined: none")}
    pipeline.figures(Console(), metrics, ("ppv", "auroc", "f1"), "x")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "PPV (precision)\t–\t–\t4\tundefined: none",
        "AUROC\t0.900\t0.800 to 1.000\t4\tbootstrap",
    ]


def test_a_summary_for_people_tells_findings_and_places(capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"code": "gap", "message": "A gap", "advice": "Mind it", "epoch": 1}
    summary = {"metrics": {}, "n_test": 0, "findings": [finding], "bundle": "run/bundle", "report": "run/report.html"}
    pipeline.summarise(Console(), summary, json=False)
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == ["Warning: A gap. Mind it. (gap, epoch 1)", "bundle: run/bundle", "report: run/report.html"]
    assert said[3].startswith("Research use only")


def test_a_summary_with_files_left_out_names_them_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"code": "files-left-out", "message": "1 of 9 files", "advice": "Mend it", "epoch": 0}
    summary = {"metrics": {}, "n_test": 0, "findings": [finding], "left_out": ["a/b.png"]}
    with pytest.raises(typer.Exit) as ended:
        pipeline.summarise(Console(), summary, json=True)
    out = capsys.readouterr()
    assert ended.value.exit_code == 1
    assert json.loads(out.out) == summary
    assert out.err.splitlines() == ["Warning: a/b.png could not be read and was left out."]


def test_the_images_of_a_folder_are_counted_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    images = [tmp_path / name for name in ("two/a.png", "two/b.png", "c.png")]
    for path in images:
        Picture.new("L", (8, 8)).save(path)
    missing = str(tmp_path / "missing.png")
    files, masks = explain._files([missing, str(tmp_path / "two"), str(images[2])], Labels(("A", "B")))
    assert [str(path) for path in files] == [missing, *map(str, images)]
    assert masks == {}


def test_a_table_of_predictions_starts_no_formula(tmp_path: Path) -> None:
    with predict.table_of(tmp_path / "out.csv", ("A", "B")) as sink:
        sink.write(Prediction("=cmd()/a.png", error="-1 is no image"))
        sink.write(Prediction("a-b.png", label="A", probability=0.75, probabilities={"A": 0.75, "B": 0.25}))
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert rows[1][0] == "'=cmd()/a.png"
    assert rows[1][4] == "'-1 is no image"
    assert rows[2][:7] == ["a-b.png", "", "A", "0.75", "", "0.75", "0.25"]


def test_explanations_are_averaged_over_the_cases_with_a_lesion() -> None:
    hit = {"pointing_game": 1.0, "energy_inside": 0.5, "iou": 0.2}
    miss = {"pointing_game": 0.0, "energy_inside": 0.1, "iou": None}
    found = [Explanation("a", methods={"final_attention": hit}), Explanation("b", methods={"final_attention": miss})]
    done = [*found, Explanation("c")]
    assert measured(done) == [("final_attention", "2", "0.500", "0.300", "0.200")]
    assert measured([Explanation("a", methods={"final_attention": {"low": 0.0}})]) == []
