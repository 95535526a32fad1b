"""The transforms, alone and in MONAI's Compose, give the same results as the classifier."""

from pathlib import Path

import numpy as np
import pytest
import torch

import reslink
from reslink.bundles.decision.calibration import IsotonicCurve
from reslink.bundles.decision.decision import Decision
from reslink.errors import InputError, UsageError
from reslink.inference.classifier import Classifier
from reslink.inference.monai_transforms import ResLinkDecisiond, ResLinkPreprocessd, load_network

CURVE = IsotonicCurve(before=(0.2, 0.7), after=(0.0, 1.0))


@pytest.fixture
def folder(make_bundle):
    return make_bundle(decision=Decision(threshold=0.3, temperature=1.7, isotonic=(CURVE,)))


def through(steps, data):
    for step in steps:
        data = step(data)
    return data


def check(transformed, answer):
    np.testing.assert_allclose(transformed["pred_probabilities"], list(answer.probabilities.values()), atol=1e-6)
    assert transformed["pred_class"] == answer.label
    assert answer.label == ("Healthy", "Tumor")[transformed["pred_label"]]


def test_transforms_and_network_match_the_classifier(folder, pictures):
    network, before, after = load_network(folder), ResLinkPreprocessd("image", folder), ResLinkDecisiond(["pred"], folder)
    assert not network.training
    for path, answer in zip(pictures, Classifier.load(folder, device="cpu").predict(pictures), strict=True):
        data = before({"image": path, "id": 7})
        assert data["image"].dtype == np.float32
        with torch.no_grad():
            data["pred"] = network(torch.from_numpy(data["image"])[None])[0]
        transformed = after(data)
        assert transformed["id"] == 7
        check(transformed, answer)


def test_transforms_work_in_a_monai_compose(folder, pictures):
    monai = pytest.importorskip("monai.transforms", reason="monai is not installed")
    network = reslink.load_network(folder)

    def net(data):
        with torch.no_grad():
            return data | {"pred": network(data["image"][None])[0]}

    compose = monai.Compose(
        [reslink.ResLinkPreprocessd("image", folder), monai.EnsureTyped("image"), net, reslink.ResLinkDecisiond("pred", folder)]
    )
    check(compose({"image": str(pictures[4])}), Classifier.load(folder, device="cpu").predict(pictures[4])[0])


def test_settings_replace_a_bundle(folder, pictures):
    bundle = reslink.Bundle.load(folder)
    one = ResLinkPreprocessd("image", settings=bundle.preprocess.model_dump(mode="json"))
    np.testing.assert_array_equal(
        one({"image": pictures[0]})["image"], ResLinkPreprocessd("image", folder)({"image": pictures[0]})["image"]
    )
    parts = bundle.decision.model_dump(mode="json", include={"threshold", "temperature", "isotonic"})
    stated = ResLinkDecisiond("pred", settings=parts, labels=["Healthy", "Tumor"])
    for logits in (np.array([0.2, 0.1]), torch.tensor([3.0, -3.0], requires_grad=True), [-1.0, 4.0]):
        mine, other = stated({"pred": logits}), ResLinkDecisiond("pred", folder)({"pred": logits})
        assert (mine["pred_label"], mine["pred_class"]) == (other["pred_label"], other["pred_class"])
        np.testing.assert_array_equal(mine["pred_probabilities"], other["pred_probabilities"])


def test_arrays_tensors_and_images_are_accepted(folder, pictures):
    image = reslink.read_image(pictures[1])
    grey = image.pixels.astype(np.uint8)
    step = ResLinkPreprocessd(("a", "b"), folder, allow_missing_keys=True)
    wanted = step.preprocess(image)
    for value in (image, grey, grey[None], torch.from_numpy(grey.copy())[None]):
        np.testing.assert_array_equal(step({"b": value})["b"], wanted)


def test_wrong_arguments_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="Neither bundle nor settings was given"):
        ResLinkPreprocessd("image")
    with pytest.raises(UsageError, match="Both bundle and settings were given"):
        ResLinkDecisiond("pred", folder, settings={})
    with pytest.raises(UsageError, match=r"siz is invalid.*fields of Preprocess: size, channels"):
        ResLinkPreprocessd("image", settings={"siz": 64})
    step = ResLinkPreprocessd("image", folder)
    with pytest.raises(UsageError, match=r"no key 'image'\. Its keys are 'img'"):
        step({"img": 0})
    with pytest.raises(UsageError, match="without a unit"):
        step({"image": np.zeros((80, 80))})
    with pytest.raises(InputError, match="has 5 slices"):
        step({"image": np.zeros((5, 80, 80), np.uint8)})
    with pytest.raises(InputError, match="cannot be opened"):
        step({"image": tmp_path / "no.png"})
    with pytest.raises(InputError, match="not finite"):
        ResLinkDecisiond("pred", folder)({"pred": np.array([np.nan, 0])})


def test_a_file_is_read_with_the_unit_as_an_array_is(tmp_path: Path) -> None:
    values = np.zeros((64, 64), np.float32)
    values[16:48, 16:48] = np.linspace(-300, 1500, 32)
    np.save(tmp_path / "a.npy", values)
    for unit in ("HU", "MR", "gray"):
        transform = ResLinkPreprocessd("image", bundle="ct", unit=unit)
        of_file, of_array = (transform({"image": image})["image"] for image in (str(tmp_path / "a.npy"), values))
        np.testing.assert_array_equal(of_file, of_array)
