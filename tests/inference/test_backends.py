"""Backends give the same predictions; the default backend needs no torch."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from reslink import files
from reslink.bundles.bundle import Bundle
from reslink.errors import BundleError, UsageError
from reslink.inference import backends, devices
from reslink.inference.backends import GraphBackend, choose_backend, default_threads
from reslink.inference.classifier import Classifier


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_all_backends_give_the_same_answers(bundle_folder, pictures, name):
    pytest.importorskip(name)
    expected = list(Classifier.load(bundle_folder, device="cpu", backend="torch").predict(pictures))
    classifier = Classifier.load(bundle_folder, device="cpu", backend=name, threads=1)
    assert classifier.backend.name == name
    for size in (1, 3, 32):
        for one, other in zip(classifier.predict(pictures, batch_size=size), expected, strict=True):
            assert one.label == other.label
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_outputs_match_torch(bundle_folder, rng):
    pixels = rng.integers(0, 256, (3, 1, 64, 64)).astype(np.uint8)
    ours, theirs = (
        Classifier.load(bundle_folder, "cpu", name).outputs(pixels, statistics=True) for name in ("torch", "onnxruntime")
    )
    assert (ours.brain, theirs.brain) == (None, None), "the scope of the bundle needs no brain share"
    for name in ("logits", "features", "statistics"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_bf16_is_close_and_only_openvino_supports_it(bundle_folder, rng):
    pytest.importorskip("openvino")
    pixels = rng.integers(0, 256, (3, 1, 64, 64)).astype(np.uint8)
    exact = Classifier.load(bundle_folder, "cpu", "torch").logits(pixels)
    np.testing.assert_allclose(
        Classifier.load(bundle_folder, "cpu", "openvino", precision="bf16").logits(pixels), exact, atol=0.1
    )
    for name in ("onnxruntime", "torch"):
        with pytest.raises(UsageError, match=rf"backend '{name}' does not support bf16\. Only openvino supports bf16"):
            Classifier.load(bundle_folder, "cpu", name, precision="bf16")


def test_the_network_is_available_with_any_backend(bundle_folder):
    classifier = Classifier.load(bundle_folder, device="cpu", backend="onnxruntime")
    assert not classifier.network.training
    assert classifier.network is classifier.network
    assert classifier.device == torch.device("cpu")


def test_auto_selects_onnx_runtime_if_possible(bundle_folder, make_bundle, monkeypatch):
    assert Classifier.load(bundle_folder, device="cpu").backend.name == "onnxruntime"
    assert Classifier.load(make_bundle(), device="cpu").backend.name == "torch", "no graph"
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    assert Classifier.load(bundle_folder, device="cpu").backend.name == "torch", "not installed"


def test_a_gpu_is_used_with_torch(bundle_folder, monkeypatch):
    bundle = Bundle.load(bundle_folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_backend("auto", bundle, "cuda") == "torch"
    assert choose_backend("auto", bundle, "cpu") == "onnxruntime"
    monkeypatch.setattr(devices, "_DRIVERS", (str(bundle_folder),))  # as if a driver were loaded
    assert choose_backend("auto", bundle, "auto") == "torch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a driver, but a build of torch without CUDA
    assert choose_backend("auto", bundle, "auto") == "onnxruntime"


def hostile_graph(bundle: Bundle) -> bytes:
    """The graph of a bundle with an endless loop in front of its end."""
    model = onnx.load_from_string(bundle.onnx())
    flag = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in ("round", "go")]
    again = onnx.helper.make_tensor_value_info("again", onnx.TensorProto.BOOL, [])
    body = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["go"], ["again"])], "body", flag, [again])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(onnx.helper.make_node("Loop", ["", "yes"], [], body=body))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_hostile_model_is_refused_before_a_runtime_sees_it(bundle_folder, tmp_path, monkeypatch, backend):
    bundle = Bundle.load(bundle_folder)
    hostile = bundle.with_onnx(hostile_graph(bundle), tmp_path / "hostile")
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    with pytest.raises(BundleError, match=r"it uses the operator Loop, which no image classifier needs"):
        Classifier.load(hostile.folder, backend=backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_error_of_a_runtime_is_one_of_the_bundle(bundle_folder, backend):
    loaded = backends.load_backend(backend, Bundle.load(bundle_folder), 1)
    with pytest.raises(BundleError, match=f"{backend} cannot run model"):
        loaded.run(np.zeros((1, 1, 64, 64), np.uint8), ["no such output"])


def test_impossible_backends_are_refused(bundle_folder, make_bundle, monkeypatch):
    bundle = Bundle.load(bundle_folder)
    with pytest.raises(
        UsageError, match=r"no backend 'onnxruntim'.*auto, torch, onnxruntime, openvino\. Did you mean 'onnxruntime'"
    ):
        Classifier.load(bundle_folder, backend="onnxruntim")
    with pytest.raises(BundleError, match=r"has no model\.onnx"):
        Classifier.load(make_bundle(), backend="onnxruntime")
    with pytest.raises(BundleError, match=r"model\.onnx cannot be used: it is not an ONNX model\. .*--backend torch"):
        GraphBackend("onnxruntime", b"not a graph", 1)
    with pytest.raises(UsageError, match="There is no device 'gpu0'"):
        choose_backend("auto", bundle, "gpu0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"'onnxruntime' cannot run on the device 'cuda'.*run only on the CPU"):
        choose_backend("onnxruntime", bundle, "cuda")


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_an_unknown_precision_is_refused(bundle_folder, name):
    for wrong in ("int8", "fp16", "bf-16"):
        with pytest.raises(UsageError, match=f"There is no precision '{wrong}'. The precisions are fp32, bf16"):
            Classifier.load(bundle_folder, device="cpu", backend=name, precision=wrong)


@pytest.mark.parametrize("threads", [0, -2])
def test_no_threads_are_refused(bundle_folder, threads):
    with pytest.raises(UsageError, match=f"threads is {threads}"):
        Classifier.load(bundle_folder, device="cpu", backend="onnxruntime", threads=threads)


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_package_names_its_extra(bundle_folder, monkeypatch, name, extra):
    real = files.importlib.import_module

    def missing(module):
        if module == name:
            raise ImportError(module)
        return real(module)

    monkeypatch.setattr(files.importlib, "import_module", missing)
    with pytest.raises(UsageError, match=rf"'{name}' is not installed.*extra '{extra}'.*pip install \"{name}>="):
        Classifier.load(bundle_folder, device="cpu", backend=name)


def test_threads_follow_torch_if_it_is_loaded(monkeypatch):
    assert default_threads() == torch.get_num_threads()
    monkeypatch.delitem(sys.modules, "torch")
    assert default_threads() >= 1


PREDICT = """
import json, sys
from reslink.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    loaded = [name for name in ("torch", "accelerate", "sklearn", "matplotlib", "pydicom") if name in sys.modules]
    print(json.dumps([end.code, loaded]))
"""


def test_predict_imports_no_torch(bundle_folder, pictures):
    words = [sys.executable, "-c", PREDICT, "predict", str(bundle_folder), str(pictures[0]), "--json", "--device", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    prediction, end = (json.loads(line) for line in done.stdout.splitlines())
    assert prediction["error"] is None
    assert end == [0, []], done.stderr
    done = subprocess.run([*words, "--backend", "torch"], capture_output=True, text=True, check=True)
    assert "torch" in json.loads(done.stdout.splitlines()[1])[1], "the check must see torch where it is"


def test_predict_with_openvino_opens_no_connection(bundle_folder, pictures):
    pytest.importorskip("openvino")
    words = [
        sys.executable,
        "-m",
        "reslink",
        "predict",
        str(bundle_folder),
        str(pictures[0]),
        "--backend",
        "openvino",
        "--offline",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
