"""``reslink.explain``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

import reslink
from reslink.api.explain import _files_of
from reslink.errors import UsageError
from reslink.explain.explain_files import ExplainOptions
from reslink.labels import Labels

BUNDLE: Any = SimpleNamespace(labels=Labels(("A", "B")), case="slice")


def test_it_writes_pictures_and_returns_explanations(
    trained: dict[str, Any], image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = {"methods": ["final_attention"], "sanity": False, "device": "cpu"}
    [explanation] = reslink.explain(trained["bundle"], image, tmp_path / "out", target="Tumor", **words)
    assert (explanation.target, explanation.panel) == ("Tumor", f"{image.stem}.png")
    assert (tmp_path / "out" / f"{image.stem}.png").is_file()
    [stored] = json.loads((tmp_path / "out" / "explain.json").read_text())["images"]
    assert stored["label"] == explanation.label
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UsageError, match="already holds explanations"):
        reslink.explain(trained["bundle"], image, tmp_path / "out", **words)


def test_a_data_set_brings_its_lesion_masks(trained: dict[str, Any], heads: Path, tmp_path: Path) -> None:
    explanations = reslink.explain(trained["bundle"], heads, tmp_path / "out", methods=["grad_cam"], sanity=False, device="cpu")
    assert any("pointing_game" in explanation.methods["grad_cam"] for explanation in explanations if explanation.methods)


def test_the_images_of_a_folder_are_listed_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    images = [tmp_path / name for name in ("two/a.png", "two/b.png", "c.png")]
    for path in images:
        Picture.new("L", (8, 8)).save(path)
    missing = str(tmp_path / "missing.png")
    files, options = _files_of([missing, str(tmp_path / "two"), str(images[2])], BUNDLE, ExplainOptions())
    assert [str(path) for path in files] == [missing, *map(str, images)]
    assert (options.masks, options.units) == ({}, {})


def test_a_table_is_read_with_its_columns_root_and_units(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    names = ["a.npy", "b.npy"]
    for name in names:
        np.save(tmp_path / "pictures" / name, np.zeros((8, 8), np.float32))
    table = tmp_path / "table.csv"
    table.write_text("first,second,Dx,unit\na.npy,x,A,mr\nb.npy,y,B,hu\n")
    options = ExplainOptions(columns=["path=first", "label=Dx"], root=tmp_path / "pictures")
    files, found = _files_of([table], BUNDLE, options)
    assert files == [tmp_path / "pictures" / name for name in names]
    assert found.units == {str(files[0]): "MR", str(files[1]): "HU"}
    with pytest.raises(UsageError, match="No table was given, but --columns or --root"):
        _files_of([files[0]], BUNDLE, options)
