"""Shipped bundles are found by name, are distinguished from folders of that name, and are read-only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError, UsageError
from reslink.networks.analysis import count_parameters


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user, which holds another folder ``ct``."""
    (tmp_path / "ct").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_the_pretrained_bundle(zoo_with_ct: Path) -> None:
    assert zoo.resolve("ct") == zoo_with_ct / "ct"
    assert Bundle.load("ct").folder == zoo_with_ct / "ct"


@pytest.mark.parametrize("written", ["./ct", "ct/", "a/../ct", Path("ct")])
def test_a_path_is_never_a_name(zoo_with_ct: Path, elsewhere: Path, written: str | Path) -> None:
    (elsewhere / "a").mkdir()
    assert zoo.resolve(written) == Path(written)
    said = rf"^{re.escape(str(written))} is not a bundle: it holds no bundle\.json.*Write ct without \./ or another folder"
    with pytest.raises(BundleError, match=said):
        Bundle.load(written)


@pytest.mark.parametrize("given", [5, None, b"ct", ["ct"]])
def test_other_types_are_refused(given: object) -> None:
    with pytest.raises(BundleError, match=rf"{type(given).__name__} was given as a bundle.*a folder, or the name of a shipped"):
        Bundle.load(given)  # type: ignore[arg-type]


def test_an_absolute_path_is_a_path(zoo_with_ct: Path, elsewhere: Path) -> None:
    assert zoo.resolve(str(elsewhere / "ct")) == elsewhere / "ct"


def test_a_folder_with_the_name_of_a_pretrained_bundle_warns(zoo_with_ct: Path, elsewhere: Path) -> None:
    with pytest.warns(UserWarning, match=r"ct is the shipped model; write \./ct to use the folder"):
        assert zoo.resolve("ct") == zoo_with_ct / "ct"


def test_any_other_folder_needs_no_slash(zoo_with_ct: Path, elsewhere: Path) -> None:
    (elsewhere / "mine").mkdir()
    assert zoo.resolve("mine") == Path("mine")
    assert zoo.resolve(".") == Path()


@pytest.mark.parametrize("written", ["CT", "ctt"])
def test_a_wrong_name_names_the_nearest(zoo_with_ct: Path, written: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = rf"There is no folder {written}, and no shipped.*or the name of a shipped model: ct\. Did you mean 'ct'\?$"
    with pytest.raises(BundleError, match=said):
        Bundle.load(written)


def test_a_missing_path_suggests_the_pretrained_bundle(zoo_with_ct: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"ct does not exist\..*Write ct without .*the shipped bundle of that name"):
        Bundle.load(tmp_path / "ct")


def test_a_missing_path_is_quoted_as_written(zoo_with_ct: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"^\./ct does not exist\..*Write ct without \./"):
        Bundle.load("./ct")
    with pytest.raises(BundleError, match=r"^\./mine/ does not exist\..*Check the path, or run reslink train"):
        Bundle.load("./mine/")


def test_an_installation_without_pretrained_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    assert zoo.shipped() == []
    with pytest.raises(BundleError, match=r"a shipped model: none in this installation\. Check the path, or run reslink train"):
        zoo.resolve("ct")


def test_another_folder_of_bundles_can_be_named(built_zoo: Path) -> None:
    assert zoo.names(built_zoo) == ["ct"]
    assert zoo.resolve("ct", built_zoo) == built_zoo / "ct"
    assert [model.name for model in zoo.shipped(built_zoo)] == ["ct"]


def test_a_listed_model_matches_its_bundle(zoo_with_ct: Path) -> None:
    [model] = zoo.shipped()
    bundle = Bundle.load("ct")
    assert (model.title, model.classes, model.input_shape) == ("Rings", ("Healthy", "Tumor"), (1, 64, 64))
    assert model.license == "CC BY-NC-SA 4.0; research use only"
    assert list(model.metrics) == ["accuracy", "sensitivity", "specificity", "auroc"]
    assert model.metrics["auroc"] == bundle.metrics["metrics"]["auroc"]
    assert model.metrics["accuracy"]["n"] == 30
    assert model.n_groups == 30
    assert model.parameters == count_parameters(bundle.network())
    assert model.bytes == sum(path.stat().st_size for path in (zoo_with_ct / "ct").iterdir())
    json.dumps(model.as_dict(), allow_nan=False)


def test_a_users_bundle_is_refused(finished_run: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a shipped bundle.*make_bundles\.py bundle RUN"):
        zoo.shipped(finished_run)


def test_an_unknown_name(zoo_with_ct: Path) -> None:
    with pytest.raises(UsageError, match=r"No shipped model is named 'cct'.*Shipped models: ct\. Did you mean 'ct'"):
        zoo.model("cct")


def test_a_pretrained_bundle_is_read_only(zoo_with_ct: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in (zoo_with_ct / "ct").iterdir()}
    bundle = Bundle.load("ct")
    refused = pytest.raises(UsageError, match=r"belongs to the shipped models of reslink.*another folder with --out")
    with refused:
        bundle.with_decision(Decision())
    with refused:
        bundle.with_decision(Decision(), zoo_with_ct / "new")
    with refused:
        bundle.with_metrics({})
    with refused:
        bundle.save(zoo_with_ct / "ct", bundle.network().state_dict())
    (tmp_path / "link").symlink_to(zoo_with_ct)
    with refused:
        bundle.with_decision(Decision(), tmp_path / "link" / "ct")
    assert {path.name: path.read_bytes() for path in (zoo_with_ct / "ct").iterdir()} == before
    assert [path.name for path in zoo_with_ct.iterdir()] == ["ct"]
    assert bundle.with_decision(Decision(), tmp_path / "mine").folder == tmp_path / "mine"


def test_listing_and_loading_import_no_torch(built_zoo: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from reslink.bundles import zoo; zoo.SHIPPED = Path(sys.argv[1]);"
        "from reslink.bundles.bundle import Bundle; Bundle.load('ct'); assert len(zoo.shipped()) == 1;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(built_zoo)], check=True)


def test_they_are_part_of_the_package() -> None:
    assert Path(zoo.__file__).with_name("shipped") == zoo.SHIPPED
