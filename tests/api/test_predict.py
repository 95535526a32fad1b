"""``reslink.predict``: predictions, the CSV table and the pictures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

import reslink
from reslink.errors import UsageError
from reslink.imaging import reading


def test_one_image_many_images_and_an_array_give_the_same(
    trained: dict[str, Any], image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    [one] = reslink.predict(trained["bundle"], image)
    many = reslink.predict(trained["bundle"], [image, image])
    [array] = reslink.predict(trained["bundle"], np.asarray(Picture.open(image)))
    assert many == [one, one]
    assert array.probabilities == pytest.approx(one.probabilities, abs=1e-6)
    assert one.label in ("Healthy", "Tumor")
    assert capfd.readouterr() == ("", "")


def test_csv_and_pictures(trained: dict[str, Any], image: Path, tmp_path: Path) -> None:
    words = {"csv": tmp_path / "out.csv", "pictures": tmp_path / "pictures", "backend": "onnxruntime", "device": "cpu"}
    predictions = reslink.predict(trained["bundle"], [image, tmp_path / "missing.png"], **words)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == [predictions[0].label, ""]
    assert "missing.png" in rows[1]["error"]
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == [f"0001_{image.stem}.png"]
    with pytest.raises(UsageError, match=r"already holds pictures of an earlier run.*Add overwrite=True"):
        reslink.predict(trained["bundle"], image, pictures=tmp_path / "pictures", backend="onnxruntime", device="cpu")
    with pytest.raises(UsageError, match="without pictures=…"):
        reslink.predict(trained["bundle"], image, overwrite=True)


def test_pictures_read_each_image_once(
    trained: dict[str, Any], image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = tmp_path / "volume.npy"
    np.save(volume, np.stack([np.asarray(Picture.open(image))] * 3))
    read: list[str] = []
    original = reading.read_image

    def counting(source: Any, *rest: Any) -> Any:
        read.append(Path(source).name)
        return original(source, *rest)

    for module in ("reslink.imaging.reading", "reslink.inference.blocks"):
        monkeypatch.setattr(f"{module}.read_image", counting)
    reslink.predict(
        trained["bundle"], [image, volume], pictures=tmp_path / "p", backend="onnxruntime", device="cpu", batch_size=2
    )
    assert read == [image.name, "volume.npy"]
    assert len(list((tmp_path / "p").iterdir())) == 4
