"""The ledger of shipped models: every evaluation on data of other hospitals stays, and is in the card."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.pretrained import OutsideEvaluation, pretrained_info

ENTRY = {
    "data": "hospital B",
    "date": "2026-11-30",
    "sha256": "ab" * 32,
    "n": 200,
    "n_refused": 10,
    "n_groups": 50,
    "auroc": 0.764,
    "accuracy": 0.5,
    "ece": None,
    "coverage": 0.8,
    "silent_errors": 0.145,
}


@pytest.fixture
def ledger(make_bundles: ModuleType, root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ledger", root / "benchmarks" / "ledger.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_kept_in_order_and_one_data_set_has_one_row(ledger: ModuleType, tmp_path: Path) -> None:
    table, first = tmp_path / "ledger.csv", OutsideEvaluation.model_validate(ENTRY)
    other = first.model_copy(update={"data": "hospital C", "auroc": None, "seen": True})
    for name, entry in (("ct", first), ("mri4", first), ("ct", other), ("ct", first.model_copy(update={"accuracy": 0.6}))):
        ledger.append(name, entry, table)
    assert ledger.read_ledger("ct", table) == [other, first.model_copy(update={"accuracy": 0.6})]
    assert ledger.read_ledger("mri4", table) == [first]
    assert ledger.read_ledger("lgg", table) == ledger.read_ledger("ct", tmp_path / "none.csv") == []


def test_a_shipped_bundle_gets_the_rows_and_keeps_the_rest(ledger: ModuleType, built_zoo: Path, tmp_path: Path) -> None:
    folder, table = tmp_path / "shipped", tmp_path / "ledger.csv"
    shutil.copytree(built_zoo, folder)
    before = Bundle.load(folder / "ct")
    ledger.append("ct", OutsideEvaluation.model_validate(ENTRY), table)
    ledger.refresh("ct", folder, table)
    after = Bundle.load(folder / "ct")
    info = pretrained_info(after.provenance)
    assert info is not None
    assert [entry.data for entry in info.ledger] == ["hospital B"]
    assert (after.weights_sha256, after.metrics, after.decision) == (before.weights_sha256, before.metrics, before.decision)
    card = (folder / "ct" / "MODEL_CARD.md").read_text()
    row = "| hospital B | 200 (50) | 10 | 0.764 | 0.500 | – | 0.800 | 0.145 | 2026-11-30 | `abababababab` |"
    assert "## Data of other hospitals\n\nEvery evaluation" in card
    assert row in card
    assert "Held-out parts" not in card


def test_a_held_out_part_of_a_source_is_no_other_hospital(ledger: ModuleType, built_zoo: Path, tmp_path: Path) -> None:
    folder, table = tmp_path / "shipped", tmp_path / "ledger.csv"
    shutil.copytree(built_zoo, folder)
    own = OutsideEvaluation.model_validate(ENTRY | {"seen": True, "data": "its own source"})
    ledger.append("ct", own, table)
    ledger.refresh("ct", folder, table)
    before, after = (folder / "ct" / "MODEL_CARD.md").read_text().split("## Held-out parts of its own sources\n")
    assert "| its own source | 200 (50) | 10 |" in after
    assert before.endswith("## Data of other hospitals\n\nIt was not evaluated on data of hospitals that it never saw.\n\n")
    assert Bundle.load(folder / "ct").statement.endswith("No evaluation on images of other hospitals is recorded.")


def test_the_ledger_in_the_repository_is_that_of_the_cards(ledger: ModuleType) -> None:
    for name in zoo.names():
        info = pretrained_info(Bundle.load(name).provenance)
        assert info is not None
        assert info.ledger == ledger.read_ledger(name)
