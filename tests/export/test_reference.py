"""``preprocess_reference.py`` needs no reslink, and an export with a wrong one is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.errors import CheckFailedError
from reslink.export.folder import export
from reslink.export.parity import Inputs, Runner
from reslink.export.reference import reference_pixels, reference_source
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.labels import CaseKind


def test_a_different_reference_is_refused(saved: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def darker(settings: Preprocess, case: CaseKind) -> str:
        return reference_source(settings, case).replace("np.clip(unit, 0, 255, out=unit)", "np.clip(unit, 0, 254, out=unit)")

    monkeypatch.setattr("reslink.export.reference.reference_source", darker)
    with pytest.raises(CheckFailedError, match=r"preprocess_reference.py differs from the package in \d+ pixels"):
        export(saved, "hf", tmp_path / "out", Inputs.synthetic(2))
    assert not (tmp_path / "out").exists()


def test_the_reference_runs_alone(some_images: list[Image], tmp_path: Path) -> None:
    from PIL import Image as Picture

    image = some_images[3]
    Picture.fromarray(image.pixels.astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "preprocess_reference.py").write_text(reference_source(Preprocess(size=64)))
    hide = "import sys; sys.modules |= dict.fromkeys(['reslink', 'pydantic', 'torch', 'scipy']); import runpy; "
    program = hide + "sys.argv = ['', 'a.png', 'out.npz']; runpy.run_path('preprocess_reference.py', run_name='__main__')"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["pixels"][0], Preprocess(size=64).pixels(image))
        assert set(found) == {"pixels", "image", "keep", "box", "hounsfield", "inverted"}


def test_the_reference_of_a_series_leaves_out_slices_without_a_head(some_images: list[Image], tmp_path: Path) -> None:
    (tmp_path / "preprocess_reference.py").write_text(reference_source(Preprocess(size=64), "series"))
    from PIL import Image as Picture

    for name, picture in {"a": some_images[3].pixels, "b": np.zeros((64, 64)), "c": some_images[3].pixels.T}.items():
        Picture.fromarray(picture.astype(np.uint8)).save(tmp_path / f"{name}.png")
    words = [sys.executable, "preprocess_reference.py", "a.png", "b.png", "c.png", "out.npz"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, env={"PATH": ""})
    with np.load(tmp_path / "out.npz") as found:
        assert found["positions"].tolist() == [0, 2]
        np.testing.assert_array_equal(found["pixels"][0], Preprocess(size=64).pixels(some_images[3]))
        assert {len(found[name]) for name in ("pixels", "image", "keep", "box", "hounsfield", "inverted")} == {2}


def test_the_reference_knows_pixels_that_are_not_square(some_images: list[Image], tmp_path: Path) -> None:
    images = [replace(image, spacing=(1.0, 2.0)) for image in some_images[:2]]
    path = tmp_path / "preprocess_reference.py"
    path.write_text(reference_source(Preprocess(size=64)))
    for image, pixels in zip(images, reference_pixels(path, images), strict=True):
        np.testing.assert_array_equal(pixels, Preprocess(size=64).pixels(image))


def test_a_graph_gets_square_pixels(saved: Bundle, some_images: list[Image]) -> None:
    sent: list[tuple[int, ...]] = []

    def call(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sent.append(inputs["image"].shape)
        assert inputs["keep"].shape == inputs["image"].shape
        return {"label": np.zeros(len(inputs["image"]))}

    image = replace(some_images[0], spacing=(1.0, 2.0))
    Runner(saved, ("image", "keep", "box"), call)([image])
    height, width = image.pixels.shape
    assert sent == [(1, height, 2 * width)]
