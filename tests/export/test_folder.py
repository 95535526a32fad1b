"""Every format, read back by the other party's loader, gives the package's answers; the folder says all that is needed."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import socket
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.calibration import IsotonicCurve
from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError, GateError, InputError, UsageError
from reslink.export import folder, monai, parity
from reslink.export import onnx as onnx_files
from reslink.export.folder import FORMATS, export
from reslink.export.graph import DecisionGraph, SliceGraph
from reslink.export.parity import Inputs, inputs_of
from reslink.export.reference import source_of
from reslink.files import sha256
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.labels import Labels

with warnings.catch_warnings(), contextlib.suppress(ImportError):  # MONAI takes ignite for missing where its import warns
    warnings.simplefilter("ignore")
    importlib.import_module("monai.engines")

COMMON = {"manifest.json", "parity.json", "labels.json", "LICENCE.txt", "MODEL_CARD.md", "preprocess_reference.py"}
OWN = {
    "onnx": {"model.onnx", "network.onnx"},
    "openvino": {"network.xml", "network.bin"},
    "torch-export": {"model.pt2"},
    "monai": {"configs", "models", "docs"},
    "hf": {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"},
}


def some_images() -> list[Image]:
    """Slices of every unit and many sizes, with all that a reader may find: padding, MONOCHROME1, 8 bits, nothing at all."""
    rng = np.random.default_rng(7)
    heads = parity.synthetic_heads(2)
    found = [*heads, replace(heads[1], inverted=True)]
    for height, width in ((64, 64), (37, 91), (130, 66), (257, 200)):
        y, x = np.mgrid[:height, :width]
        inside = ((y - height / 2) / (0.4 * height)) ** 2 + ((x - width / 2) / (0.3 * width)) ** 2 < 1
        picture = inside * rng.integers(60, 250, (height, width))
        found.append(Image(picture.astype(np.float32), unit="grey", white=255.0))
        found.append(Image((picture * 7.3 + rng.random((height, width))).astype(np.float32), unit="MR"))
        padding = np.zeros((height, width), bool)
        padding[:9] = True
        found.append(Image(np.where(inside, picture - 100.0, -1000).astype(np.float32), unit="HU", padding=padding))
    return [*found, Image(np.full((70, 70), 5, np.float32), unit="grey", white=255.0)]


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(size=64),
        Preprocess(size=101, window="three", isolate_head=False),
        Preprocess(size=96, percentiles=(2.0, 97.3), channels=1),
    ],
)
def test_the_graph_and_the_reference_give_the_pixels_of_the_package(preprocess: Preprocess, tmp_path: Path) -> None:
    (tmp_path / "reference.py").write_text(source_of(preprocess))
    names: dict[str, object] = {"__name__": "reference"}
    code = compile((tmp_path / "reference.py").read_text(), "reference.py", "exec")
    sys.modules["reference"] = type(sys)("reference")  # dataclasses look their module up
    try:
        exec(code, names)
    finally:
        del sys.modules["reference"]
    graph = SliceGraph(preprocess)
    for image in some_images():
        wanted = preprocess.pixels(image)
        keep, place = preprocess.isolate(image)
        box = np.array([[place.top, place.left, place.height, place.width]])
        fed = (image.pixels.copy()[None], keep.copy()[None], box, np.array([image.unit == "HU"]), np.array([image.inverted]))
        np.testing.assert_array_equal(graph(*map(torch.from_numpy, fed))[0].numpy(), wanted)
        other = names["Image"](  # type: ignore[operator]
            image.pixels, unit=image.unit, white=image.white, padding=image.padding, inverted=image.inverted
        )
        np.testing.assert_array_equal(names["PREPROCESS"].pixels(other), wanted)  # type: ignore[attr-defined]
        prepared = names["inputs"](other)  # type: ignore[operator]
        for mine, theirs in zip(fed, prepared.values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_reference_that_prepares_otherwise_is_refused(saved: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def darker(settings: Preprocess) -> str:
        return source_of(settings).replace("np.clip(unit, 0, 255, out=unit)", "np.clip(unit, 0, 254, out=unit)")

    monkeypatch.setattr("reslink.export.reference.source_of", darker)
    with pytest.raises(GateError, match=r"preprocess_reference.py differs from the package in \d+ pixels"):
        export(saved, "hf", tmp_path / "out", Inputs.synthetic(2))
    assert not (tmp_path / "out").exists()


def test_the_reference_runs_alone(tmp_path: Path) -> None:
    from PIL import Image as Picture

    image = some_images()[3]
    Picture.fromarray(image.pixels.astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "preprocess_reference.py").write_text(source_of(Preprocess(size=64)))
    hide = "import sys; sys.modules |= dict.fromkeys(['reslink', 'pydantic', 'torch', 'scipy']); import runpy; "
    program = hide + "sys.argv = ['', 'a.png', 'out.npz']; runpy.run_path('preprocess_reference.py', run_name='__main__')"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["pixels"][0], Preprocess(size=64).pixels(image))
        assert set(found) == {"pixels", "image", "keep", "box", "hounsfield", "inverted"}


CURVE = IsotonicCurve(before=(0.1, 0.3, 0.3, 0.8), after=(0.0, 0.2, 0.5, 1.0))


@pytest.mark.parametrize(
    ("decision", "outputs"),
    [
        (Decision(threshold=0.37, temperature=1.9), 2),
        (Decision(threshold=0.6, isotonic=(CURVE,)), 1),
        (Decision(threshold=None, temperature=0.7, isotonic=(CURVE, CURVE, IsotonicCurve(before=(0.5,), after=(0.0,)))), 3),
    ],
)
def test_the_decision_inside_is_the_decision(decision: Decision, outputs: int) -> None:
    logits = np.random.default_rng(0).normal(0, 4, (500, outputs)).astype(np.float32)
    chances, labels = DecisionGraph(decision)(torch.from_numpy(logits))
    wanted = decision.probabilities(logits)
    np.testing.assert_allclose(chances.numpy(), wanted, atol=1e-7)
    np.testing.assert_array_equal(labels.numpy(), decision.predict(wanted))


@pytest.fixture(scope="module")
def saved(make_saved: object) -> Bundle:
    bundle = make_saved(preprocess=Preprocess(size=64, channels=1))  # type: ignore[operator]
    curve = IsotonicCurve(before=(0, 1), after=(0.05, 0.9))
    return bundle.with_decision(Decision(threshold=0.45, temperature=1.3, isotonic=(curve,)))


@pytest.fixture(scope="module")
def heads() -> Inputs:
    return Inputs(tuple(some_images()[:6]), "six drawn heads")


@pytest.mark.parametrize("form", [*FORMATS])
def test_every_format_is_read_back_and_says_what_it_is(form: str, saved: Bundle, heads: Inputs, tmp_path: Path) -> None:
    if form == "monai" and find_spec("monai") is None:
        pytest.skip("monai is not installed")
    report = export(saved, form, tmp_path / "out", heads)
    assert {path.name for path in (tmp_path / "out").iterdir()} == COMMON | OWN[form]
    assert json.loads((tmp_path / "out" / "parity.json").read_text()) == report
    for found in report["files"].values():
        assert (found["images"], found["labels"]) == (6, 0)
        assert found["probabilities"] <= report["tolerance"] == 1e-5
        assert found["pixels"] in (0, None)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert all(sha256(tmp_path / "out" / name) == entry["sha256"] for name, entry in manifest["files"].items())
    assert manifest["labels"] == ["Healthy", "Tumor"]
    assert manifest["opset"] == (18 if form in ("onnx", "openvino") else None)
    assert set(manifest["steps"]) == {*report["files"]}
    assert "research use only" in manifest["research_use_only"].lower()
    assert "Licence of the weights: not stated" in (tmp_path / "out" / "LICENCE.txt").read_text()
    _check_no_machine(tmp_path / "out", str(saved.folder))


def test_fractions_stand_in_the_written_graph_as_they_are(make_saved: object, tmp_path: Path) -> None:
    """The exporter of torch rounds a Python float to float32, which moves a pixel in some MR heads and the threshold in all."""
    settings = Preprocess(size=64, percentiles=(0.5, 99.5))
    rule = Decision(threshold=0.22415658558997892, temperature=0.7791226430913547)
    onnx_files.write(make_saved(preprocess=settings).with_decision(rule), tmp_path)  # type: ignore[operator]
    for name, wanted in {"model.onnx": {0.005, 0.995}, "network.onnx": set()}.items():
        stored = [onnx.numpy_helper.to_array(part) for part in onnx.load(tmp_path / name).graph.initializer]
        held = {float(value) for part in stored if part.dtype == np.float64 for value in part.ravel()}
        assert {*wanted, rule.threshold, rule.temperature} <= held, name


@pytest.mark.filterwarnings("ignore:parsing config_file")  # MONAI says so of every configuration
def test_the_workflow_of_monai_runs_as_it_stands(
    saved: Bundle, ring_heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = pytest.importorskip("monai.bundle", reason="monai is not installed")
    pytest.importorskip("ignite", reason="pytorch-ignite is not installed")
    out = tmp_path / "out"
    (out / "images").mkdir(parents=True)
    monai.write(saved, out)
    paths = sorted(ring_heads.glob("*.png"))[:3]
    for path in paths:
        shutil.copy(path, out / "images")
    monkeypatch.chdir(out)
    flow = bundles.create_workflow(config_file=monai.INFERENCE, meta_file=monai.METADATA, workflow_type="inference")
    assert flow.check_properties() == []
    flow.run()
    found = [row["pred_probabilities"] for row in flow.evaluator.state.output]
    wanted = parity.of_package(saved, [read_image(path) for path in paths])["probabilities"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("outputs", "said"), [(1, {"0": "Tumor"}), (2, {"0": "Healthy", "1": "Tumor"})])
def test_the_metadata_of_monai_name_every_channel_once(make_saved: object, outputs: int, said: dict[str, str]) -> None:
    bundle = make_saved(num_classes=outputs)  # type: ignore[operator]
    pred = monai._metadata(replace(bundle, labels=Labels(("Healthy", "Tumor"))))["network_data_format"]["outputs"]["pred"]
    assert (pred["num_channels"], pred["channel_def"]) == (outputs, said)


def _check_no_machine(out: Path, folder: str) -> None:
    secrets = [folder, str(Path(__file__).parents[2]), str(Path.home()), socket.gethostname()]
    for path in (path for path in out.rglob("*") if path.is_file()):
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for secret in (secret for secret in secrets if len(secret) > 5):
            assert not any(secret.encode() in content for content in contents), (path.name, secret)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> str:
    """The format that is written quickest, with a fault in what it says."""
    real = FORMATS["hf"]

    def faulty(bundle: Bundle, place: Path):
        for name, runner in real.read_back(bundle, place):

            def call(fed: parity.Arrays, runner: parity.Runner = runner) -> parity.Arrays:
                found = runner.call(fed)
                return found | {"probabilities": found["probabilities"] + 2e-5}

            yield name, replace(runner, call=call)

    monkeypatch.setitem(folder.FORMATS, "hf", replace(real, read_back=faulty))
    return "hf"


def test_the_gate_says_no_and_leaves_nothing(quick: str, saved: Bundle, heads: Inputs, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"differs from the package in a probability by 2e-05.*may differ by 1e-05") as caught:
        export(saved, quick, tmp_path / "out", heads)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["labels", "pixels", "nan", "missing", "features", "cam", "final_attention", "logits"])
def test_the_gate_looks_at_everything(fault: str, saved: Bundle, heads: Inputs) -> None:
    ours = parity.of_package(saved, heads.images)
    theirs = {name: values.copy() for name, values in ours.items()}
    if fault == "labels":
        theirs["label"][0] = 1 - theirs["label"][0]
    elif fault == "pixels":
        theirs["pixels"][0, 0, 0, 0] += 1
    elif fault == "nan":
        theirs["probabilities"][1, 0] = np.nan
    elif fault == "missing":
        del theirs["probabilities"]
    else:
        theirs[fault] = theirs[fault] * 1.2 + 1
    assert parity.check(parity.compare(ours, dict(ours)), 0.0, "It", "six").labels == 0
    said = {"labels": "1 labels", "pixels": "1 pixels", "features": "a feature by", "logits": "a logit by"}
    said |= dict.fromkeys(("cam", "final_attention"), "a map by") | dict.fromkeys(
        ("nan", "missing"), "a probability by (nan|inf)"
    )
    with pytest.raises(GateError, match=said[fault]):
        parity.check(parity.compare(ours, theirs), 1e-3, "It", "six")


def test_wrong_wishes_are_named(saved: Bundle, heads: Inputs, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format 'onx'.*Did you mean 'onnx'"):
        export(saved, "onx", tmp_path / "out", heads)
    with pytest.raises(UsageError, match="bf16 was asked for in the format hf"):
        export(saved, "hf", tmp_path / "out", heads, precision="bf16")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BundleError, match="exists and is not an export"):
        export(saved, "hf", tmp_path, heads)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_real_inputs_are_spread_over_the_folder(ring_heads: Path, tmp_path: Path) -> None:
    found = Inputs.read(ring_heads, 5)
    assert len(found.images) == 5
    assert "of a folder of the user" in found.source
    (tmp_path / "no.png").write_bytes(b"\x89PNG no picture")
    with pytest.raises(InputError, match="None of 1 images"):
        Inputs.read(tmp_path, 5)
    for name in ("p", "q", "z"):
        np.save(tmp_path / f"{name}.npy", np.zeros((64, 64), np.uint8))
    taken = Inputs.read(tmp_path, 3)
    assert len(taken.images) == 3, "another for the one that cannot be read"
    assert ["no.png" in reason for reason in taken.failed] == [True]


def test_the_pixels_of_volumes_are_one_slice(tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", np.zeros((5, 64, 64), np.uint8))
    [image] = Inputs.read(tmp_path, 9).images
    assert image.pixels.shape == (64, 64)


def test_inputs_of_one_size_make_a_batch(saved: Bundle) -> None:
    found = inputs_of(saved, parity.synthetic_heads(3), ("image", "keep", "box", "hounsfield", "inverted"))
    assert {name: values.shape for name, values in found.items()} == {
        "image": (3, 256, 256),
        "keep": (3, 256, 256),
        "box": (3, 4),
        "hounsfield": (3,),
        "inverted": (3,),
    }
