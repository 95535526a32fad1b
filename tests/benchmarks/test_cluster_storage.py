"""The S3 server of the benchmark of clusters, and what counts as lost or repeated; the cluster itself is not started."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.imaging.search import find_images


@pytest.fixture
def cluster_storage() -> ModuleType:
    return importlib.import_module("cluster_storage")


@pytest.fixture
def heads(tmp_path: Path) -> list[Path]:
    for seed in (1, 2):
        make_cohort(tmp_path / f"{seed}", PhantomSettings(patients=2, slices=2, size=128, seed=seed))
    return [tmp_path / "1", tmp_path / "2"]


def test_images_of_several_cohorts_are_served(
    cluster_storage: ModuleType, heads: list[Path], s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = cluster_storage.read_rows(heads, 7)
    assert len({row["path"] for row in rows}) == 7
    assert {row["patient_id"].partition("-")[0] for row in rows} == {"0", "1"}
    with pytest.raises(SystemExit, match="8 images were given, and 9 are needed: give more folders"):
        cluster_storage.read_rows(heads, 9)
    with cluster_storage.storage_of(rows, 0.0) as (url, bucket, pipe):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        found = find_images([f"s3://{bucket}/"])
        pipe.send("count")
        assert pipe.recv() == 1  # the list
    assert {str(path) for path in found} == {f"s3://{bucket}/{row['path']}" for row in rows}


def test_what_is_in_the_output(cluster_storage: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("path,error\na,\nb,broken\na,\nc,\n")
    assert cluster_storage.predicted(tmp_path) == {"a": 2, "c": 1}
    (tmp_path / "audit.json").write_text(json.dumps({"images": 5, "files": {"corrupt": [{"path": "b"}]}}))
    assert cluster_storage.audited(tmp_path) == 4
