"""``reslink models``, and the names it lists as bundle arguments of every command."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.pretrained import pretrained_info
from reslink.cli.main import app
from reslink.errors import BundleError
from reslink.inference.classifier import Classifier

COMMANDS = {
    "predict": ("predict", "{name}", "{data}/61.png", "--json"),
    "evaluate": ("evaluate", "{name}", "{data}", "--split", "test", "--out", "evaluated", "--json"),
    "explain": (
        "explain",
        "{name}",
        "{data}/61.png",
        "--method",
        "first_attention",
        "--no-sanity",
        "--out",
        "explained",
        "--json",
    ),
    "compare": ("compare", "{name}", "./other", "--data", "{data}", "--split", "test", "--json"),
    "calibrate": ("calibrate", "{name}", "{data}", "--split", "validation", "--out", "mine", "--json"),
    "export": ("export", "{name}", "--format", "hf", "--images", "1", "--out", "exported", "--json"),
    "bench": ("bench", "{name}", "--images", "1", "--seconds", "0.1", "--backend", "torch", "--json"),
    "robustness": (
        "experiment",
        "robustness",
        "{name}",
        "{data}",
        "--only",
        "noise",
        "--images",
        "8",
        "--out",
        "experiments",
        "--json",
    ),
    "external": ("external", "{name}", "{data}", "--images", "20", "--out", "experiments", "--json"),
}


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def run_command(command: str, name: str, data: Path) -> Result:
    return invoke(*(word.format(name=name, data=data) for word in COMMANDS[command]))


def measured(bundle: Path, backend: str, images: list[Path]) -> tuple[float, float]:
    """Stands for the process that ``reslink bench`` starts, which knows no zoo of a test: it gets the folder of the bundle."""
    assert (Bundle.load(bundle).folder, backend) == (bundle, "torch")
    assert all(image.exists() for image in images)
    return 1.5, 100.0


@pytest.fixture
def elsewhere(tmp_path: Path, built_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user, with a bundle of theirs."""
    shutil.copytree(built_zoo / "ct", tmp_path / "other")
    monkeypatch.setattr("reslink.cli.commands.bench._process", measured)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_accepts_a_model_name(command: str, zoo_with_ct: Path, elsewhere: Path, ring_heads: Path) -> None:
    result = run_command(command, "ct", ring_heads)
    assert result.exit_code == 0, result.stderr
    result_json = json.loads(result.stdout)
    used = {
        "evaluate": lambda: result_json["bundle_sha256"],
        "compare": lambda: result_json["models"]["ct"]["bundle_sha256"],
    }.get(command)
    assert used is None or used() == Bundle.load("ct").weights_sha256


def test_an_evaluation_and_its_report_name_the_model_and_its_limitations(
    zoo_with_ct: Path, elsewhere: Path, ring_heads: Path
) -> None:
    assert run_command("evaluate", "ct", ring_heads).exit_code == 0
    result_json = json.loads((elsewhere / "evaluated" / "evaluation.json").read_text())
    shipped = pretrained_info(Bundle.load("ct").provenance)
    assert shipped is not None
    assert (result_json["bundle"], result_json["usage_notes"]) == ("ct", [shipped.usage_notes])
    page = (elsewhere / "evaluated" / "report.html").read_text()
    assert "<dt>Model</dt><dd>ct</dd>" in page
    assert f"<strong>Usage note:</strong> {shipped.usage_notes}" in page
    measured = Bundle.load("other").with_metrics(result_json)
    assert not {"bundle", "usage_notes", "failed"} & set(measured.metrics), "a bundle that is handed on tells no name of a run"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_suggests_the_nearest_name(command: str, zoo_with_ct: Path, elsewhere: Path, ring_heads: Path) -> None:
    result = run_command(command, "ctt", ring_heads)
    assert result.exit_code == 2
    assert "There is no folder ctt, and no shipped model of that name.\n" in result.stderr
    assert "Did you mean 'ct'?\n" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_that_name_is_written_as_a_path(command: str, zoo_with_ct: Path, elsewhere: Path, ring_heads: Path) -> None:
    (elsewhere / "ct").mkdir()
    for written in ("./ct", "ct/"):
        result = run_command(command, written, ring_heads)
        assert result.exit_code == 2
        assert f"Error: {written} is not a bundle: it holds no bundle.json.\n" in result.stderr
        assert "Write ct without ./ or another folder to use the shipped bundle of that name" in result.stderr


def test_a_folder_with_the_name_of_a_model_gives_a_warning(zoo_with_ct: Path, elsewhere: Path, ring_heads: Path) -> None:
    (elsewhere / "ct").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run_command("evaluate", "ct", ring_heads)
    assert result.exit_code == 0
    assert result.stderr.count("Warning: ct is the shipped model") == 1, "it is loaded twice and said once"
    assert "Warning: ct is the shipped model; write ./ct to use the folder of that name\n" in result.stderr


def test_the_service_and_the_dicom_node_accept_a_model_name(zoo_with_ct: Path, elsewhere: Path) -> None:
    from reslink.serving.dicom.classify import load_model
    from reslink.serving.http.models import load_onnx_bundle

    (elsewhere / "ct").mkdir()
    loaders = (
        load_onnx_bundle,
        lambda name: load_model(name).classifier.bundle,
        lambda name: load_model(f"CT={name}").classifier.bundle,
    )
    for load in loaders:
        with pytest.warns(UserWarning, match=r"write \./ct to use the folder of that name"):
            assert load("ct").folder == zoo_with_ct / "ct"
        for written in ("./ct", "ct/"):
            with pytest.raises(BundleError, match=r"ct/? is not a bundle: it holds no bundle\.json"):
                load(written)


def test_the_classifier_accepts_a_model_name(zoo_with_ct: Path) -> None:
    assert Classifier.load("ct", device="cpu").bundle.folder == zoo_with_ct / "ct"


@pytest.mark.parametrize("words", [(), ("--out", "{zoo}/ct", "--overwrite"), ("--out", "{zoo}/new")])
def test_calibrate_does_not_write_into_a_shipped_bundle(
    words: tuple[str, ...], zoo_with_ct: Path, elsewhere: Path, ring_heads: Path
) -> None:
    before = {path: path.read_bytes() for path in zoo_with_ct.rglob("*") if path.is_file()}
    rest = [word.format(zoo=zoo_with_ct) for word in words]
    result = invoke("calibrate", "ct", ring_heads, "--split", "validation", *rest)
    assert result.exit_code == 2
    assert "belongs to the shipped models of reslink.\n" in result.stderr
    assert "Choose another folder with --out.\n" in result.stderr
    assert "Running the network" not in result.stderr, "it is refused before the work, not after it"
    assert {path: path.read_bytes() for path in zoo_with_ct.rglob("*") if path.is_file()} == before


def test_calibrate_refuses_a_folder_of_something_else_before_the_work(
    zoo_with_ct: Path, elsewhere: Path, ring_heads: Path
) -> None:
    (elsewhere / "notes.txt").write_text("mine")
    result = invoke("calibrate", "ct", ring_heads, "--split", "validation", "--out", ".")
    assert result.exit_code == 2
    assert "Error: . exists and is not a bundle.\n" in result.stderr
    assert "Decoding" not in result.stderr, "it is refused before the work, not after it"
    assert (elsewhere / "notes.txt").read_text() == "mine"


def test_train_does_not_write_into_a_shipped_bundle(zoo_with_ct: Path, ring_heads: Path) -> None:
    before = sorted(zoo_with_ct.rglob("*"))
    result = invoke("train", ring_heads, "--out", zoo_with_ct / "ct", "--overwrite")
    assert result.exit_code == 2
    assert "Choose another folder with --out" in result.stderr
    assert sorted(zoo_with_ct.rglob("*")) == before


def test_calibration_keeps_the_limitations_and_removes_the_metrics(
    zoo_with_ct: Path, elsewhere: Path, ring_heads: Path
) -> None:
    assert run_command("calibrate", "ct", ring_heads).exit_code == 0
    card = Path("mine/MODEL_CARD.md").read_text()
    assert "**Read this first.** Its heads are drawn." in card
    assert "This model has not been evaluated yet" in card


def table() -> dict[str, dict[str, str]]:
    """Returns the printed table: the cells of each model by column."""
    heading, *lines = [line.split("\t") for line in invoke("models").stdout.splitlines()]
    assert len(set(heading)) == len(heading)
    return {line[0]: dict(zip(heading, line, strict=True)) for line in lines}


def test_the_table(zoo_with_ct: Path) -> None:
    [model] = zoo.shipped()
    accuracy = model.metrics["accuracy"]
    [row] = table().values()
    assert row["model"] == "ct"
    assert row["images"] == model.scope
    assert row["classes"] == "Healthy, Tumor"
    assert row["accuracy (95 % interval)"] == (
        f"{accuracy['estimate']:.3f} ({accuracy['ci_low']:.3f} to {accuracy['ci_high']:.3f})"
    )
    assert row["n"] == "30"
    assert row["other hospitals: accuracy"] == "–"
    told = invoke("models").stderr
    assert "Print limitations, license and all evaluations of a model with: reslink models NAME" in told
    assert "Research use only" in told


def test_the_table_has_the_lowest_accuracy_on_other_hospitals() -> None:
    rows = table()
    columns = ("other hospitals: accuracy", "other hospitals: silent errors", "other hospitals: n")
    found = {name: tuple(row[column] for column in columns) for name, row in rows.items()}
    assert found["mri4"] == ("0.518", "0.256", "663")
    assert found["ct-2026-11"] == ("0.716", "0.132", "786"), "not ct_phe, and not the held-out part of its own source ct_ich"
    assert found["ct"] == found["lgg"] == ("–", "–", "–"), "ct knows all four sources"
    listed = {model["name"]: model["ledger"] for model in json.loads(invoke("models", "--json").stdout)["models"]}
    assert [(row["seen"], row["n_refused"]) for row in listed["ct"]] == [(True, 9), (True, 48), (True, 8), (True, 2)]
    assert max(len(cell) for row in rows.values() for cell in row.values()) < 45, "long texts are in the card"


def test_the_card_of_one(zoo_with_ct: Path) -> None:
    result = invoke("models", "ct")
    assert result.stdout == (zoo_with_ct / "ct" / "MODEL_CARD.md").read_text()
    assert "Research use only" in result.stderr


def test_json(zoo_with_ct: Path) -> None:
    every, one = (json.loads(invoke("models", *words, "--json").stdout) for words in ([], ["ct"]))
    assert every["research_use_only"] is one["research_use_only"] is True
    assert every["models"] == [{key: value for key, value in one.items() if key != "research_use_only"}]
    assert one["name"] == "ct"
    assert one["metrics"]["auroc"]["method"]


def test_a_wrong_name_names_the_nearest(zoo_with_ct: Path) -> None:
    result = invoke("models", "cct")
    assert result.exit_code == 2
    assert "Error: No shipped model is named 'cct'.\n" in result.stderr
    assert "Did you mean 'ct'?\n" in result.stderr


def test_an_installation_without_any_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path)
    result = invoke("models")
    assert result.exit_code == 0
    assert result.stdout == "This installation has no models. Train one with: reslink train DATA --out RUN\n"
    assert json.loads(invoke("models", "--json").stdout) == {"models": [], "research_use_only": True}
    assert "none in this installation" in invoke("models", "ct").stderr
    assert json.loads(invoke("info", "--json").stdout)["models"] == []


def test_info_lists_the_names(zoo_with_ct: Path) -> None:
    assert json.loads(invoke("info", "--json").stdout)["models"] == ["ct"]
