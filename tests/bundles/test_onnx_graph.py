"""The ONNX graph of a bundle is stored with it, and refused if it does not belong to it."""

import dataclasses
import json

import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError

GRAPH = b"the bytes of a graph; a bundle does not parse it"


@pytest.fixture
def with_graph(saved) -> Bundle:
    return saved.with_onnx(GRAPH)


def test_it_is_stored_and_read(with_graph):
    loaded = Bundle.load(with_graph.folder)
    assert loaded == with_graph
    assert loaded.onnx() == GRAPH
    record = json.loads((with_graph.folder / "bundle.json").read_text())["onnx"]
    assert (record["file"], record["bytes"]) == ("model.onnx", len(GRAPH))


def test_a_bundle_without_a_graph_names_the_next_step(saved):
    assert Bundle.load(saved.folder).onnx_model is None
    with pytest.raises(BundleError, match=r"has no model\.onnx\. .*reslink train writes.*--backend torch"):
        saved.onnx()


def test_a_corrupted_graph_is_refused(with_graph):
    (with_graph.folder / "model.onnx").write_bytes(GRAPH[:-1] + b"?")
    with pytest.raises(BundleError, match=r"model\.onnx cannot be used: its SHA-256 is .* but bundle\.json says"):
        Bundle.load(with_graph.folder)
    with pytest.raises(BundleError, match="its SHA-256 is"):
        with_graph.onnx()


def test_a_missing_graph_is_refused(with_graph):
    (with_graph.folder / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx cannot be used: No such file"):
        Bundle.load(with_graph.folder)


def test_new_weights_remove_the_graph(with_graph, bundle, network):
    state = network.state_dict()
    state["head.1.bias"] += 1
    for source in (bundle, with_graph):
        saved = source.save(with_graph.folder, state)
        assert saved.onnx_model is None
        assert Bundle.load(with_graph.folder).onnx_model is None
        assert not (with_graph.folder / "model.onnx").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda value, _: value["preprocess"].update(mean=0.3),
        lambda value, _: value["architecture"].update(attention="none"),
        lambda value, folder: value.update(weights=value["weights"] | other_weights(folder)),
    ],
    ids=["normalization", "architecture", "weights"],
)
def test_a_graph_of_other_settings_is_refused(with_graph, change):
    path = with_graph.folder / "bundle.json"
    value = json.loads(path.read_text())
    change(value, with_graph.folder)
    path.write_text(json.dumps(value))
    with pytest.raises(BundleError, match="made from other weights or settings than those of this bundle"):
        Bundle.load(with_graph.folder)


def other_weights(folder):
    """Replaces the weights, with a matching checksum."""
    from reslink.files import sha256

    path = folder / "model.safetensors"
    content = path.read_bytes()[:-4] + b"\0\0\0\0"
    path.write_bytes(content)
    return {"sha256": sha256(content)}


def test_another_decision_and_metrics_keep_it(with_graph, tmp_path):
    elsewhere = with_graph.with_decision(Decision(threshold=0.3), tmp_path / "calibrated")
    assert Bundle.load(elsewhere.folder).onnx() == GRAPH
    with_graph.with_decision(Decision(threshold=0.4)).with_metrics({"n": 1})
    again = Bundle.load(with_graph.folder)
    assert (again.decision.threshold, again.metrics, again.onnx()) == (0.4, {"n": 1}, GRAPH)


def test_it_needs_a_saved_bundle_with_the_same_weights(with_graph, bundle):
    with pytest.raises(BundleError, match="no weights yet"):
        bundle.with_onnx(GRAPH)
    other_weights(with_graph.folder)
    with pytest.raises(BundleError, match="SHA-256"):
        with_graph.with_onnx(GRAPH)


def test_saving_with_other_settings_drops_it(with_graph, network):
    darker = dataclasses.replace(with_graph, preprocess=with_graph.preprocess.model_copy(update={"mean": 0.1}))
    assert darker.save(with_graph.folder, network.state_dict()).onnx_model is None
