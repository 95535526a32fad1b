"""``reslink.evaluate``."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import reslink
from reslink.bundles.bundle import Bundle
from reslink.bundles.scope import Scope
from reslink.datasets.cache.shards import ShardFiller
from reslink.errors import InputError, UsageError


def test_it_writes_and_returns_the_evaluation(
    trained: dict[str, Any], heads: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = reslink.evaluate(trained["bundle"], heads, tmp_path / "out", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == json.loads(json.dumps(result))
    assert (tmp_path / "out" / "report.html").is_file()
    assert result["data"] == heads.name
    assert f"on {heads.name} · Evaluation report" in (tmp_path / "out" / "report.html").read_text()
    assert (result["n"] + result["n_excluded"], result["leakage"]["status"]) == (28, "excluded")
    assert result["n_excluded"] > 0, "training images are excluded"
    with pytest.raises(UsageError, match="already holds an evaluation"):
        reslink.evaluate(trained["bundle"], heads, tmp_path / "out", device="cpu")
    manifest = reslink.Manifest.open(heads)
    again = reslink.evaluate(trained["bundle"], manifest, tmp_path / "out", device="cpu", overwrite=True)
    assert again["metrics"] == result["metrics"]


def test_the_predictions_are_also_written_as_parquet(
    trained: dict[str, Any], heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    result = reslink.evaluate(trained["bundle"], heads, out, device="cpu", parquet=True, allow_leakage=True)
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        expected = [(row["path"], row["label"], row["p_Tumor"]) for row in csv.DictReader(stream)]
    assert [(row["path"], row["label"], repr(row["p_Tumor"])) for row in rows] == expected
    assert len(rows) == result["n"] == 28
    reslink.evaluate(trained["bundle"], heads, out, device="cpu", overwrite=True, allow_leakage=True)
    assert not (out / "predictions.parquet").exists(), "it is not that of another evaluation"
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match="The package 'pyarrow' is not installed"):
        reslink.evaluate(trained["bundle"], heads, tmp_path / "new", device="cpu", parquet=True)
    assert not (tmp_path / "new").exists()


def test_a_table_that_no_evaluation_wrote_is_kept(trained: dict[str, Any], heads: Path, tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").write_bytes(b"of another command")
    reslink.evaluate(trained["bundle"], heads, tmp_path, device="cpu", allow_leakage=True)
    assert (tmp_path / "predictions.parquet").read_bytes() == b"of another command"


def test_the_sequence_of_the_user_refuses_the_images_of_a_model_for_others(
    trained: dict[str, Any], heads: Path, tmp_path: Path
) -> None:
    bundle = Bundle.load(trained["bundle"])
    scope = Scope(modality="MR", sequences=("T1C+",))
    replace(bundle, scope=scope).with_decision(bundle.decision, tmp_path / "b")
    with pytest.raises(InputError, match="the sequence is T2, and the model is for T1C\\+ MR of the head"):
        reslink.evaluate(tmp_path / "b", heads, tmp_path / "out", device="cpu", sequence="t2w")


def test_a_training_and_an_evaluation_share_decoded_images(
    heads: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = reslink.train(heads, tmp_path / "run", epochs=1, settings=settings, cache=tmp_path / "decoded", device="cpu")
    assert not (tmp_path / "run" / "cache").exists()

    def decoded_again(*_: object) -> None:
        pytest.fail("an image is decoded again")

    monkeypatch.setattr(ShardFiller, "_case_rows", decoded_again)
    out = tmp_path / "out"
    result = reslink.evaluate(run["bundle"], heads, out, device="cpu", cache=tmp_path / "decoded", allow_leakage=True)
    assert result["n"] == 28
    assert sorted(file.name for file in out.iterdir()) == ["evaluation.json", "figures", "predictions.csv", "report.html"]


def test_a_cache_among_the_class_folders_is_refused(trained: dict[str, Any], tmp_path: Path, image: Path) -> None:
    for name in ("Healthy", "Tumor"):
        (tmp_path / name).mkdir()
        for copy in "ab":
            shutil.copy(image, tmp_path / name / f"{copy}.png")
    message = r"The folder .*Tumor/decoded of cache=… is inside the data set.*Every folder in there is a class.*Choose"
    inside = tmp_path / "Tumor" / "decoded"
    with pytest.raises(UsageError, match=message):
        reslink.evaluate(trained["bundle"], tmp_path, tmp_path.parent / "out", cache=inside)
    with pytest.raises(UsageError, match=message):
        reslink.train(tmp_path, tmp_path.parent / "run", cache=inside)
