"""The fingerprints of the training images are stored with the bundle and verified when read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.fingerprints import TrainingImages
from reslink.errors import BundleError
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network

FILE = "fingerprints.safetensors"


@pytest.fixture
def images(rng: np.random.Generator) -> TrainingImages:
    return TrainingImages(rng.integers(0, 256, (7, 128)).astype(np.uint8), rng.integers(0, 256, (2, 32)).astype(np.uint8))


def save(folder: Path, images: TrainingImages | None) -> Bundle:
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(0, 1), in_channels=1)
    architecture = {"name": "tiny", **config.model_dump(mode="json")}
    bundle = Bundle(architecture, Preprocess(size=64, channels=1), Labels(("a", "b")), training_images=images)
    return bundle.save(folder, build_network(config, seed=0).state_dict())


def test_they_are_stored_and_read(tmp_path: Path, images: TrainingImages) -> None:
    save(tmp_path / "b", images)
    found = Bundle.load(tmp_path / "b").training_images
    assert found is not None
    np.testing.assert_array_equal(found.fingerprints, images.fingerprints)
    np.testing.assert_array_equal(found.cleared, images.cleared)
    assert len(found) == 7


def test_equal_images_give_equal_bytes(tmp_path: Path, images: TrainingImages) -> None:
    save(tmp_path / "b", images)
    save(tmp_path / "c", images)
    assert (tmp_path / "b" / FILE).read_bytes() == (tmp_path / "c" / FILE).read_bytes()


def test_they_stay_when_metrics_are_stored(tmp_path: Path, images: TrainingImages) -> None:
    names = [{"path": "secret/Jane.png", "reason": "near duplicate of a training image"}]
    Bundle.load(save(tmp_path / "b", images).folder).with_metrics({"n": 3, "excluded": names, "leaked": names})
    assert "Jane" not in (tmp_path / "b" / "bundle.json").read_text()
    assert "Jane" not in (tmp_path / "b" / "MODEL_CARD.md").read_text()
    found = Bundle.load(tmp_path / "b")
    assert found.metrics == {"n": 3}
    assert found.training_images is not None


def test_a_bundle_without_them(tmp_path: Path) -> None:
    save(tmp_path / "b", None)
    assert Bundle.load(tmp_path / "b").training_images is None
    assert not (tmp_path / "b" / FILE).exists()


def test_a_damaged_file_is_named(tmp_path: Path, images: TrainingImages) -> None:
    save(tmp_path / "b", images)
    path = tmp_path / "b" / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"fingerprints.safetensors cannot be used: its SHA-256 is"):
        Bundle.load(tmp_path / "b")
    path.unlink()
    with pytest.raises(BundleError, match=r"fingerprints.safetensors cannot be used: .*No such file"):
        Bundle.load(tmp_path / "b")


EMPTY = TrainingImages(np.zeros((1, 128), np.uint8), np.zeros((0, 32), np.uint8)).to_bytes()


@pytest.mark.parametrize("content", [b"", b"\x80\x04junk", EMPTY[:-9]])
def test_other_content_with_its_own_checksum(tmp_path: Path, content: bytes) -> None:
    from reslink.files import sha256

    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(BundleError, match="cannot be used"):
        TrainingImages.read(tmp_path / FILE, sha256(content))


@pytest.mark.parametrize(
    ("fingerprints", "cleared"),
    [
        (np.zeros((3, 127), np.uint8), np.zeros((0, 32), np.uint8)),
        (np.zeros((3, 128), np.float32), np.zeros((0, 32), np.uint8)),
        (np.zeros((3, 128), np.uint8), np.zeros(32, np.uint8)),
    ],
)
def test_other_shapes_are_refused(fingerprints: np.ndarray, cleared: np.ndarray) -> None:
    with pytest.raises(BundleError, match="of the training images are"):
        TrainingImages(fingerprints, cleared)
