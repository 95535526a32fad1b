"""The ONNX graph gives what torch gives, whatever the network is, and holds nothing of the machine that made it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from reslink import files
from reslink.bundles.onnx_graph import CAM, FEATURES, LOGITS
from reslink.errors import BundleError, CheckFailedError, UsageError
from reslink.export.onnx import OPSET, check_parity, to_onnx
from reslink.imaging.preprocess import Preprocess
from reslink.inference.backends import GraphBackend, TorchBackend
from reslink.networks.area_attention import record_attention_weights

CASES = {
    "small": {},
    "paper, no shortcuts": {"variant": "reslink_paper", "residual": False},
    "first attention, one logit": {"attention": "first", "num_classes": 1},
    "final attention, four classes": {"variant": "reslink_paper", "attention": "final", "names": ("a", "b", "c", "d")},
    "no attention, one channel": {"attention": "none", "preprocess": Preprocess(size=64, channels=1, mean=0.0, std=1.0)},
    "areas of 5, three windows": {"area_size": 5, "preprocess": Preprocess(size=64, window="three", mean=0.4, std=0.2)},
}


def pixels_for(bundle, n=5):
    shape = (n, bundle.preprocess.planes, bundle.preprocess.size, bundle.preprocess.size)
    bright = np.linspace(0.1, 1, n)[:, None, None, None]  # grains alone would look alike to the network
    return (np.random.default_rng(3).integers(0, 256, shape) * bright).astype(np.uint8)


@pytest.mark.parametrize("case", CASES)
def test_the_graph_equals_torch(make_saved, case):
    bundle = make_saved(**CASES[case])
    runtime, pixels = GraphBackend("onnxruntime", to_onnx(bundle), threads=1), pixels_for(bundle)
    network = bundle.network()
    logits, features = TorchBackend(network, bundle.preprocess, torch.device("cpu")).outputs(pixels)
    with torch.no_grad(), record_attention_weights(network) as gates:
        network(torch.from_numpy(bundle.preprocess.normalize(pixels)))
    assert runtime.names == (LOGITS, FEATURES, CAM, *gates)
    found = dict(zip(runtime.names, runtime.run(pixels, runtime.names), strict=True))
    assert np.ptp(logits, axis=0).max() > 0.05, "the inputs must not look alike to the network"
    np.testing.assert_allclose(found[LOGITS], logits, atol=2e-5)
    np.testing.assert_allclose(found[FEATURES], features, atol=2e-5)
    for name, gate in gates.items():
        np.testing.assert_allclose(found[name], gate.numpy(), atol=1e-5)
    bias = network.head[-1].bias.detach().numpy()
    np.testing.assert_allclose(found[CAM].mean(axis=(2, 3)) + bias, logits, atol=2e-5)
    for n in (1, 3):
        np.testing.assert_allclose(runtime.logits(pixels[:n]), logits[:n], atol=2e-5)


@pytest.fixture(scope="module")
def plain(make_saved):
    return make_saved()


@pytest.fixture(scope="module")
def graph(plain):
    return to_onnx(plain)


def test_equal_bundles_give_equal_bytes_and_torch_is_unchanged(plain, graph):
    state, threads, environment = torch.random.get_rng_state(), torch.get_num_threads(), dict(os.environ)
    assert to_onnx(plain) == graph
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (torch.get_num_threads(), dict(os.environ)) == (threads, environment)


def test_nothing_of_the_machine_is_written(graph, plain):
    for secret in (str(Path.home()), str(Path(__file__).parents[2]), str(plain.folder), socket.gethostname(), ".py"):
        assert len(secret) < 3 or secret.encode() not in graph
    model = onnx.load_from_string(graph)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", OPSET)]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_parity_is_reported(plain, graph):
    found = check_parity(plain, graph, images=2)
    assert (found.images, found.labels) == (2, 0)
    assert found.logits < 2e-5
    assert found.probabilities < 1e-5


def test_parity_of_another_network_is_refused(make_saved, graph):
    with pytest.raises(CheckFailedError, match=r"differs from torch by .* At most 0\.0001 is allowed"):
        check_parity(make_saved(variant="reslink_paper"), graph, images=1)


def test_parity_of_nan_is_refused(plain, graph):
    model = onnx.load_from_string(graph)
    dense = next(item for item in model.graph.initializer if item.name.endswith("head.1.weight"))
    dense.CopyFrom(onnx.numpy_helper.from_array(np.full(dense.dims, np.nan, np.float32), dense.name))
    with pytest.raises(CheckFailedError, match="differs from torch by nan"):
        check_parity(plain, model.SerializeToString(), images=1)


@pytest.mark.parametrize(("output", "told"), [(FEATURES, "in a feature"), (CAM, "in a map"), ("final_attention", "in a map")])
def test_parity_covers_features_and_maps(plain, graph, output, told):
    """The logits stay right; a wrong feature would change who is abstained from, a wrong map what is shown."""
    model = onnx.load_from_string(graph)
    for node in model.graph.node:
        node.output[:] = ["right" if name == output else name for name in node.output]
        node.input[:] = ["right" if name == output else name for name in node.input]
    more = onnx.numpy_helper.from_array(np.float32(1e-3), "more")
    model.graph.initializer.append(more)
    model.graph.node.append(onnx.helper.make_node("Add", ["right", "more"], [output]))
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(CheckFailedError, match=rf"differs from torch by [^,]* {told}, over 1 synthetic"):
        check_parity(plain, model.SerializeToString(), images=1)


def test_a_bundle_without_graph_has_nothing_to_compare(plain):
    with pytest.raises(BundleError, match=r"has no model\.onnx"):
        check_parity(plain, images=1)


def test_a_missing_package_is_named(plain, monkeypatch):
    real = files.importlib.import_module

    def missing(name):
        if name == "onnxscript":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(files.importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"'onnxscript' is not installed.*extra 'train'.*pip install .*\"onnx>="):
        to_onnx(plain)


def test_it_is_read_back_and_its_fractions_are_exact(check_export: Callable[[str, set[str]], Path], saved) -> None:
    """The exporter of torch rounds a Python float to float32, which moves a pixel in some MR heads and the threshold in all."""
    folder, rule = check_export("onnx", {"model.onnx", "network.onnx"}), saved.decision
    assert (saved.preprocess.percentiles, rule.threshold, rule.temperature) == (
        (0.5, 99.5),
        0.22415658558997892,
        0.7791226430913547,
    )
    for name, wanted in {"model.onnx": {0.005, 0.995}, "network.onnx": set()}.items():
        stored = [onnx.numpy_helper.to_array(part) for part in onnx.load(folder / name).graph.initializer]
        held = {float(value) for part in stored if part.dtype == np.float64 for value in part.ravel()}
        assert {*wanted, rule.threshold, rule.temperature} <= held, name
