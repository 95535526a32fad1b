"""``reslink models``, and the names it lists in place of the path of a bundle, for every verb that takes one."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.pretrained import shipping_of
from reslink.cli.main import app
from reslink.errors import BundleError
from reslink.inference.classifier import Classifier

VERBS = {
    "predict": ("predict", "{name}", "{data}/61.png", "--json"),
    "evaluate": ("evaluate", "{name}", "{data}", "--split", "test", "--out", "judged", "--json"),
    "explain": ("explain", "{name}", "{data}/61.png", "--method", "first_attention", "--no-sanity", "--out", "seen", "--json"),
    "compare": ("compare", "{name}", "./other", "--data", "{data}", "--split", "test", "--json"),
    "calibrate": ("calibrate", "{name}", "{data}", "--split", "validation", "--out", "mine", "--json"),
    "export": ("export", "{name}", "--format", "hf", "--images", "1", "--out", "exported", "--json"),
    "bench": ("bench", "{name}", "--images", "1", "--seconds", "0.1", "--backend", "torch", "--json"),
    "robustness": ("study", "robustness", "{name}", "{data}", "--only", "noise", "--images", "8", "--out", "studies", "--json"),
    "transfer": ("study", "transfer", "{name}", "{data}", "--images", "20", "--out", "studies", "--json"),
}


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def spoken(verb: str, name: str, data: Path) -> Result:
    return invoke(*(word.format(name=name, data=data) for word in VERBS[verb]))


@pytest.fixture
def elsewhere(tmp_path: Path, built_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user, with a bundle of theirs."""
    shutil.copytree(built_zoo / "ct", tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_a_name(verb: str, zoo_with_ct: Path, elsewhere: Path, ring_heads: Path) -> None:
    result = spoken(verb, "ct", ring_heads)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    used = {"evaluate": lambda: found["bundle_sha256"], "compare": lambda: found["models"]["ct"]["bundle_sha256"]}.get(verb)
    assert used is None or used() == Bundle.load("ct").weights_sha256


def test_a_judgement_and_its_page_name_the_model_and_what_must_be_known(
    zoo_with_ct: Path, elsewhere: Path, ring_heads: Path
) -> None:
    assert spoken("evaluate", "ct", ring_heads).exit_code == 0
    found = json.loads((elsewhere / "judged" / "evaluation.json").read_text())
    shipped = shipping_of(Bundle.load("ct").provenance)
    assert shipped is not None
    assert (found["bundle"], found["read_first"]) == ("ct", [shipped.about])
    page = (elsewhere / "judged" / "report.html").read_text()
    assert "<dt>Model</dt><dd>ct</dd>" in page
    assert f"<strong>Know first:</strong> {shipped.about}" in page
    measured = Bundle.load("other").with_metrics(found)
    assert not {"bundle", "read_first", "failed"} & set(measured.metrics), "a bundle that is handed on tells no name of a run"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_the_nearest(verb: str, zoo_with_ct: Path, elsewhere: Path, ring_heads: Path) -> None:
    result = spoken(verb, "ctt", ring_heads)
    assert result.exit_code == 2
    assert "There is no folder ctt, and no bundle of that name ships with reslink.\n" in result.stderr
    assert "Did you mean 'ct'.\n" in result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_of_that_name_is_written_as_a_path(verb: str, zoo_with_ct: Path, elsewhere: Path, ring_heads: Path) -> None:
    (elsewhere / "ct").mkdir()
    for written in ("./ct", "ct/"):
        result = spoken(verb, written, ring_heads)
        assert result.exit_code == 2
        assert f"Error: {written} is not a bundle: it holds no bundle.json.\n" in result.stderr
        assert "Write ct alone, without ./ or another folder, for the bundle of that name" in result.stderr


def test_a_folder_of_that_name_that_is_not_meant_is_said(zoo_with_ct: Path, elsewhere: Path, ring_heads: Path) -> None:
    (elsewhere / "ct").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = spoken("evaluate", "ct", ring_heads)
    assert result.exit_code == 0
    assert result.stderr.count("Warning: ct is the bundle") == 1, "it is loaded twice and said once"
    assert "Warning: ct is the bundle that ships with reslink; write ./ct for the folder here\n" in result.stderr


def test_the_service_and_the_dicom_node_take_a_name_too(zoo_with_ct: Path, elsewhere: Path) -> None:
    from reslink.serving.dicom.classify import load_model
    from reslink.serving.http.models import with_graph

    (elsewhere / "ct").mkdir()
    loaders = (
        with_graph,
        lambda name: load_model(name).classifier.bundle,
        lambda name: load_model(f"CT={name}").classifier.bundle,
    )
    for load in loaders:
        with pytest.warns(UserWarning, match=r"write \./ct for the folder here"):
            assert load("ct").folder == zoo_with_ct / "ct"
        for written in ("./ct", "ct/"):
            with pytest.raises(BundleError, match=r"ct/? is not a bundle: it holds no bundle\.json"):
                load(written)


def test_python_takes_a_name_too(zoo_with_ct: Path) -> None:
    assert Classifier.load("ct", device="cpu").bundle.folder == zoo_with_ct / "ct"


@pytest.mark.parametrize("words", [(), ("--out", "{zoo}/ct", "--overwrite"), ("--out", "{zoo}/new")])
def test_calibrate_does_not_write_into_a_shipped_bundle(
    words: tuple[str, ...], zoo_with_ct: Path, elsewhere: Path, ring_heads: Path
) -> None:
    before = {path: path.read_bytes() for path in zoo_with_ct.rglob("*") if path.is_file()}
    rest = [word.format(zoo=zoo_with_ct) for word in words]
    result = invoke("calibrate", "ct", ring_heads, "--split", "validation", *rest)
    assert result.exit_code == 2
    assert "belongs to the bundles that ship with reslink.\n" in result.stderr
    assert "Give a folder of your own with --out.\n" in result.stderr
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
    assert "Give a folder of your own with --out" in result.stderr
    assert sorted(zoo_with_ct.rglob("*")) == before


def test_what_is_calibrated_anew_keeps_the_first_lines_and_drops_the_figures(
    zoo_with_ct: Path, elsewhere: Path, ring_heads: Path
) -> None:
    assert spoken("calibrate", "ct", ring_heads).exit_code == 0
    card = Path("mine/MODEL_CARD.md").read_text()
    assert "**Read this first.** Its heads are drawn." in card
    assert "Nothing has been measured yet" in card


def test_the_table(zoo_with_ct: Path) -> None:
    result = invoke("models")
    assert result.exit_code == 0
    rows = dict(line.split("\t") for line in result.stdout.splitlines())
    [model] = zoo.shipped()
    accuracy = model.figures["accuracy"]
    assert rows[""] == "ct"
    assert rows["tells apart"] == "heads with a spot from heads without"
    assert rows["classes"] == "Healthy, Tumor"
    assert rows["modality"] == "drawings"
    assert rows["input"] == "1×64×64"
    assert rows["parameters"] == f"{model.parameters:,}"
    assert rows["size on disk"] == f"{model.bytes / 1e6:.1f} MB"
    interval = f"{accuracy['ci_low']:.3f} to {accuracy['ci_high']:.3f}"
    assert rows["accuracy"] == f"{accuracy['estimate']:.3f} ({interval}; n 30)"
    assert rows["judged on"] == "30 images in 30 groups"
    assert rows["licence of the weights"] == "CC BY-NC-SA 4.0; research use only"
    assert rows["read first"] == "Its heads are drawn."
    assert "Research use only" in result.stderr


def test_the_table_says_which_of_the_shipped_models_have_a_gate() -> None:
    lines = [line.split("\t") for line in invoke("models").stdout.splitlines()]
    rows = {line[0]: dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines}
    for name, said in rows["out-of-distribution gate"].items():
        has_gate = (zoo.SHIPPED / name / "bundle.json").read_text().count('"ood": null') == 0
        assert said.startswith("abstains from" if has_gate else "none: answers to any picture")
    assert rows["out-of-distribution gate"]["ct"] != rows["out-of-distribution gate"]["lgg"]


def test_the_card_of_one(zoo_with_ct: Path) -> None:
    result = invoke("models", "ct")
    assert result.stdout == (zoo_with_ct / "ct" / "MODEL_CARD.md").read_text()
    assert "Research use only" in result.stderr


def test_json(zoo_with_ct: Path) -> None:
    every, one = (json.loads(invoke("models", *words, "--json").stdout) for words in ([], ["ct"]))
    assert every["research_use_only"] is one["research_use_only"] is True
    assert every["models"] == [{key: value for key, value in one.items() if key != "research_use_only"}]
    assert one["name"] == "ct"
    assert one["figures"]["auroc"]["method"]


def test_a_wrong_name_names_the_nearest(zoo_with_ct: Path) -> None:
    result = invoke("models", "cct")
    assert result.exit_code == 2
    assert "Error: No bundle called 'cct' ships with reslink.\n" in result.stderr
    assert "Did you mean 'ct'.\n" in result.stderr


def test_an_installation_without_any_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path)
    result = invoke("models")
    assert result.exit_code == 0
    assert result.stdout == "No model ships with this installation. Train one: reslink train DATA --out RUN\n"
    assert json.loads(invoke("models", "--json").stdout) == {"models": [], "research_use_only": True}
    assert "none in this installation" in invoke("models", "ct").stderr
    assert json.loads(invoke("info", "--json").stdout)["models"] == []


def test_info_lists_the_names(zoo_with_ct: Path) -> None:
    assert json.loads(invoke("info", "--json").stdout)["models"] == ["ct"]
