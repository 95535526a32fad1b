"""Shipped bundles are found by name, are told from folders of that name, and are never written to."""

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
from reslink.networks.analysis import parameters


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user, which holds a folder ``ct`` that is no bundle."""
    (tmp_path / "ct").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_is_the_shipped_bundle(zoo_with_ct: Path) -> None:
    assert zoo.resolve("ct") == zoo_with_ct / "ct"
    assert Bundle.load("ct").folder == zoo_with_ct / "ct"


@pytest.mark.parametrize("written", ["./ct", "ct/", "a/../ct", Path("ct")])
def test_what_is_written_as_a_path_is_a_path(zoo_with_ct: Path, elsewhere: Path, written: str | Path) -> None:
    (elsewhere / "a").mkdir()
    assert zoo.resolve(written) == Path(written)
    said = rf"^{re.escape(str(written))} is not a bundle: it holds no bundle\.json.*Write ct alone, without \./ or another"
    with pytest.raises(BundleError, match=said):
        Bundle.load(written)


@pytest.mark.parametrize("given", [5, None, b"ct", ["ct"]])
def test_what_is_neither_a_name_nor_a_path_is_said(given: object) -> None:
    with pytest.raises(BundleError, match=rf"{type(given).__name__} was given as a bundle.*a folder, or the name of one that"):
        Bundle.load(given)  # type: ignore[arg-type]


def test_an_absolute_path_is_a_path(zoo_with_ct: Path, elsewhere: Path) -> None:
    assert zoo.resolve(str(elsewhere / "ct")) == elsewhere / "ct"


def test_a_folder_that_is_called_like_a_shipped_bundle_is_said(zoo_with_ct: Path, elsewhere: Path) -> None:
    with pytest.warns(UserWarning, match=r"ct is the bundle that ships with reslink; write \./ct for the folder here"):
        assert zoo.resolve("ct") == zoo_with_ct / "ct"


def test_any_other_folder_needs_no_slash(zoo_with_ct: Path, elsewhere: Path) -> None:
    (elsewhere / "mine").mkdir()
    assert zoo.resolve("mine") == Path("mine")
    assert zoo.resolve(".") == Path()


@pytest.mark.parametrize("written", ["c", "CT", "ctt", "ct1"])
def test_a_wrong_name_names_the_nearest(zoo_with_ct: Path, written: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = rf"There is no folder {written}, and no bundle.*or the name of one that ships: ct\. Did you mean 'ct'\."
    with pytest.raises(BundleError, match=said):
        Bundle.load(written)


def test_a_path_that_is_not_there_names_the_shipped_bundle(zoo_with_ct: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"ct does not exist\..*Write ct alone, .*for the bundle of that name"):
        Bundle.load(tmp_path / "ct")


def test_a_path_that_is_not_there_is_said_as_it_was_written(zoo_with_ct: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"^\./ct does not exist\..*Write ct alone, without \./"):
        Bundle.load("./ct")
    with pytest.raises(BundleError, match=r"^\./mine/ does not exist\..*Check the path, or run reslink train"):
        Bundle.load("./mine/")


def test_an_installation_without_any_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    assert zoo.shipped() == []
    with pytest.raises(BundleError, match=r"that ships: none in this installation\. Check the path, or run reslink train"):
        zoo.resolve("ct")


def test_another_folder_of_bundles_can_be_named(built_zoo: Path) -> None:
    assert zoo.names(built_zoo) == ["ct"]
    assert zoo.resolve("ct", built_zoo) == built_zoo / "ct"
    assert [model.name for model in zoo.shipped(built_zoo)] == ["ct"]


def test_what_is_told_is_what_the_bundle_holds(zoo_with_ct: Path) -> None:
    [model] = zoo.shipped()
    bundle = Bundle.load("ct")
    assert (model.title, model.classes, model.input) == ("Rings", ("Healthy", "Tumor"), (1, 64, 64))
    assert model.licence == "CC BY-NC-SA 4.0; research use only"
    assert list(model.figures) == ["accuracy", "sensitivity", "specificity", "auroc"]
    assert model.figures["auroc"] == bundle.metrics["metrics"]["auroc"]
    assert model.figures["accuracy"]["n"] == 30
    assert model.n_groups == 30
    assert model.parameters == parameters(bundle.network())
    assert model.bytes == sum(path.stat().st_size for path in (zoo_with_ct / "ct").iterdir())
    json.dumps(model.as_dict(), allow_nan=False)


def test_a_bundle_that_was_not_built_to_ship_is_refused(finished_run: Path) -> None:
    with pytest.raises(BundleError, match=r"was not built to ship.*make_bundles\.py bundle RUN"):
        zoo.shipped(finished_run)


def test_a_name_that_does_not_ship(zoo_with_ct: Path) -> None:
    with pytest.raises(UsageError, match=r"No bundle called 'cct' ships.*those that ship: ct\. Did you mean 'ct'"):
        zoo.model("cct")


def test_a_shipped_bundle_is_never_written_to(zoo_with_ct: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in (zoo_with_ct / "ct").iterdir()}
    bundle = Bundle.load("ct")
    refused = pytest.raises(UsageError, match=r"belongs to the bundles that ship with reslink.*folder of your own with --out")
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


def test_they_lie_in_the_package() -> None:
    assert Path(zoo.__file__).with_name("shipped") == zoo.SHIPPED
