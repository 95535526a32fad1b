"""The ONNX graph of a bundle: kept with it, and refused where it is not its own."""

import dataclasses
import json

import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError

GRAPH = b"the bytes of a graph; a bundle does not look inside"


@pytest.fixture
def doubled(saved) -> Bundle:
    return saved.with_onnx(GRAPH)


def test_it_is_kept_and_read(doubled):
    loaded = Bundle.load(doubled.folder)
    assert loaded == doubled
    assert loaded.onnx() == GRAPH
    record = json.loads((doubled.folder / "bundle.json").read_text())["onnx"]
    assert (record["file"], record["bytes"]) == ("model.onnx", len(GRAPH))


def test_a_bundle_without_one_says_what_to_do(saved):
    assert Bundle.load(saved.folder).onnx_model is None
    with pytest.raises(BundleError, match=r"has no model\.onnx\. .*reslink train writes.*--backend torch"):
        saved.onnx()


def test_bundles_of_earlier_versions_are_still_read(saved):
    path = saved.folder / "bundle.json"
    value = json.loads(path.read_text())
    del value["onnx"]
    for version in (1, 2):
        path.write_text(json.dumps(value | {"schema_version": version}))
        assert Bundle.load(saved.folder).onnx_model is None


def test_a_corrupted_twin_is_refused(doubled):
    (doubled.folder / "model.onnx").write_bytes(GRAPH[:-1] + b"?")
    with pytest.raises(BundleError, match=r"model\.onnx cannot be used: its SHA-256 is .* but bundle\.json says"):
        Bundle.load(doubled.folder)
    with pytest.raises(BundleError, match="its SHA-256 is"):
        doubled.onnx()


def test_a_missing_twin_is_refused(doubled):
    (doubled.folder / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx cannot be used: No such file"):
        Bundle.load(doubled.folder)


def test_new_weights_take_the_twin_away(doubled, bundle, network):
    state = network.state_dict()
    state["head.1.bias"] += 1
    for source in (bundle, doubled):
        saved = source.save(doubled.folder, state)
        assert saved.onnx_model is None
        assert Bundle.load(doubled.folder).onnx_model is None
        assert not (doubled.folder / "model.onnx").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda value, _: value["preprocess"].update(mean=0.3),
        lambda value, _: value["architecture"].update(attention="none"),
        lambda value, folder: value.update(weights=value["weights"] | other_weights(folder)),
    ],
    ids=["normalisation", "architecture", "weights"],
)
def test_a_stale_twin_is_refused(doubled, change):
    path = doubled.folder / "bundle.json"
    value = json.loads(path.read_text())
    change(value, doubled.folder)
    path.write_text(json.dumps(value))
    with pytest.raises(BundleError, match="made from other weights or settings than those of this bundle"):
        Bundle.load(doubled.folder)


def other_weights(folder):
    """Puts other weights in place, with a checksum that fits."""
    from reslink.files import sha256

    path = folder / "model.safetensors"
    content = path.read_bytes()[:-4] + b"\0\0\0\0"
    path.write_bytes(content)
    return {"sha256": sha256(content)}


def test_another_decision_and_figures_keep_it(doubled, tmp_path):
    elsewhere = doubled.with_decision(Decision(threshold=0.3), tmp_path / "calibrated")
    assert Bundle.load(elsewhere.folder).onnx() == GRAPH
    doubled.with_decision(Decision(threshold=0.4)).with_metrics({"n": 1})
    again = Bundle.load(doubled.folder)
    assert (again.decision.threshold, again.metrics, again.onnx()) == (0.4, {"n": 1}, GRAPH)


def test_it_needs_a_saved_bundle_with_the_same_weights(doubled, bundle):
    with pytest.raises(BundleError, match="no weights yet"):
        bundle.with_onnx(GRAPH)
    other_weights(doubled.folder)
    with pytest.raises(BundleError, match="SHA-256"):
        doubled.with_onnx(GRAPH)


def test_an_unsaved_copy_with_other_settings_does_not_take_it_along(doubled, network):
    darker = dataclasses.replace(doubled, preprocess=doubled.preprocess.model_copy(update={"mean": 0.1}))
    assert darker.save(doubled.folder, network.state_dict()).onnx_model is None
