"""The ancestors of a fine-tuned network are stored with its bundle: license, hashes, fingerprints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.bundles.fingerprints import TrainingImages
from reslink.errors import BundleError
from reslink.networks.reslink import ResLink


def images(seed: int, n: int) -> TrainingImages:
    rng = np.random.default_rng(seed)
    return TrainingImages(rng.integers(0, 256, (n, 128)).astype(np.uint8), rng.integers(0, 256, (1, 32)).astype(np.uint8))


@pytest.fixture
def family(bundle: Bundle, network: ResLink, tmp_path: Path) -> list[Bundle]:
    """A grandparent, a parent without fingerprints, and a child."""
    state = network.state_dict()
    generations: list[Bundle] = []
    for name, seen in (("grandparent", images(0, 5)), ("parent", None), ("child", images(2, 3))):
        state["head.1.bias"] = state["head.1.bias"] + 1
        lineage = generations[-1].lineage_of_child() if generations else ()
        made = replace(bundle, training_images=seen, lineage=lineage).save(tmp_path / name, state)
        assert made.folder is not None
        generations.append(Bundle.load(made.folder))
    return generations


def records(bundle: Bundle) -> list[dict]:
    return [ancestor.model_dump() for ancestor in bundle.lineage]


def test_a_child_knows_its_ancestors_up_to_the_first(family: list[Bundle]) -> None:
    grandparent, parent, child = family
    assert [ancestor.weights_sha256 for ancestor in child.lineage] == [parent.weights_sha256, grandparent.weights_sha256]
    assert [ancestor.license for ancestor in child.lineage] == ["CC BY-NC-SA 4.0"] * 2
    assert [ancestor.data_digest for ancestor in child.lineage] == ["ab" * 32] * 2
    assert grandparent.lineage == ()


def test_the_fingerprints_of_ancestors_are_the_files_of_their_bundles(family: list[Bundle]) -> None:
    grandparent, _, child = family
    assert grandparent.folder is not None
    assert child.folder is not None
    stored = (child.folder / "ancestor_2.safetensors").read_bytes()
    assert stored == (grandparent.folder / "fingerprints.safetensors").read_bytes()
    assert not (child.folder / "ancestor_1.safetensors").exists()
    assert [len(seen) for seen in child.seen_images] == [3, 5]


def test_it_is_known_whether_all_training_images_are_known(family: list[Bundle]) -> None:
    grandparent, parent, child = family
    assert [bundle.knows_seen_images for bundle in (grandparent, parent, child)] == [True, False, False]


def test_they_stay_when_a_bundle_is_calibrated_or_evaluated(family: list[Bundle], tmp_path: Path) -> None:
    child = family[-1]
    calibrated = Bundle.load(child.with_decision(Decision(threshold=0.3), tmp_path / "calibrated").folder)
    assert records(calibrated) == records(child)
    assert [len(seen) for seen in calibrated.seen_images] == [3, 5]
    child.with_metrics({"n": 4})
    assert records(Bundle.load(child.folder)) == records(child)


def test_the_card_names_the_ancestors(family: list[Bundle]) -> None:
    grandparent, parent, child = family
    card = (child.folder / "MODEL_CARD.md").read_text()
    lines = [
        f"- a bundle (weights {bundle.weights_sha256[:12]}…). License: CC BY-NC-SA 4.0." for bundle in (parent, grandparent)
    ]
    assert "Fine-tuned from (the parent first):\n\n" + "\n".join(lines) in card
    assert "Fine-tuned" not in (grandparent.folder / "MODEL_CARD.md").read_text()


def test_only_a_shipped_model_is_named(family: list[Bundle], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "grandparent" not in json.dumps([ancestor.model_dump() for ancestor in family[-1].lineage])
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path)
    assert family[0].lineage_of_child()[0].name == "grandparent"


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_fingerprints_of_an_ancestor_are_refused(family: list[Bundle], damage: str) -> None:
    path = family[-1].folder / "ancestor_2.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"ancestor_2\.safetensors cannot be used"):
        Bundle.load(family[-1].folder)


def test_an_unsaved_bundle_is_no_parent(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="starts from a saved bundle"):
        bundle.lineage_of_child()
