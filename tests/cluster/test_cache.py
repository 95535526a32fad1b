"""Evaluations on a real cluster: tasks decode and run the network, and the files are those of one process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reslink
from reslink.cluster import cache, evaluation
from reslink.datasets.cache import decode, shards
from reslink.datasets.manifest import Manifest
from reslink.inference.classifier import Classifier
from reslink.training.monitoring.progress import SilentProgress

sys.path.insert(0, str(Path(__file__).parent))
import work

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::reslink.imaging.limits.ImagingWarning")]


@pytest.fixture
def data(write_toy_heads: Any, tmp_path: Path) -> Manifest:
    """24 heads with masks in the first shard only; one file is no picture, one is missing, and one is in two shards."""
    (tmp_path / "data").mkdir()
    folder = Path(write_toy_heads(tmp_path / "data", 12, masks=True))
    lines = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("\n".join([*lines[:9], *(line.partition("masks/")[0] for line in lines[9:])]) + "\n")
    (folder / "001.png").write_bytes(b"\x89PNG no picture")
    shutil.copy(folder / "002.png", folder / "022.png")
    manifest = Manifest.open(folder)
    (folder / "005.png").unlink()
    return manifest


@pytest.fixture
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Recorded(SilentProgress):
    """Remembers the phases and the messages."""

    def __init__(self) -> None:
        self.phases: list[tuple[int, str, str]] = []
        self.failed = 0.0
        self.texts: list[str] = []

    def start(self, total_steps: int, label: str, noun: str = "step") -> None:
        self.phases.append((total_steps, label, noun))

    def step(self, n: int = 1, **values: float) -> None:  # noqa: ARG002
        self.failed = max(self.failed, values["failed"])

    def message(self, text: str) -> None:
        self.texts.append(text)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def never(*_: object, **__: object) -> None:
    raise AssertionError("this process decodes, or runs the network")


@pytest.mark.usefixtures("one_thread")
def test_an_evaluation_in_tasks_writes_what_one_process_writes(
    cluster: Any, data: Manifest, built_zoo: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    arguments = {"bundle": built_zoo / "ct", "data": data, "batch_size": 4}
    one = reslink.evaluate(out=tmp_path / "one", **arguments)
    assert sorted(one["failed"]) == ["001.png", "005.png"]
    assert one["n_groups"] < 12, "a near duplicate joins two patients"

    out, recorded = tmp_path / "several", Recorded()
    for module, name, value in (
        (shards, "SHARD_IMAGES", 10),
        (evaluation, "TASK_ROWS", 9),
        (cache, "fill_part", work.fill_dies_once),
        (evaluation, "run_batches", work.network_dies_once),
        (decode, "decode_case", never),
        (Classifier, "outputs", never),
    ):
        monkeypatch.setattr(module, name, value)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_read_outputs", stop)
        with pytest.raises(KeyboardInterrupt):
            reslink.evaluate(out=out, on=cluster.address, progress=recorded, **arguments)
    assert recorded.phases == [(23, "Reading images", "image"), (22, "Running the network", "image")]
    assert recorded.failed == 1
    assert sorted(path.name for path in (out / ".parts").glob("* died")) == ["decoding died", "network died"]
    assert len(list((out / ".parts" / "outputs").iterdir())) == 3
    assert len(list((out / ".parts" / "cache").glob("shards/*/rows"))) == 3
    min((out / ".parts" / "outputs").iterdir()).unlink()

    reslink.evaluate(out=out, on=cluster.address, progress=recorded, **arguments)
    assert "2 of 3 parts are there already" in recorded.texts
    files = files_of(tmp_path / "one")
    assert {"evaluation.json", "predictions.csv", "report.html"} <= files.keys()
    assert files_of(out) == files

    shared = tmp_path / "decoded"
    reslink.evaluate(out=tmp_path / "third", on=cluster.address, cache=shared, **arguments)
    assert files_of(tmp_path / "third") == files
    assert len(list(shared.glob("shards/*/rows"))) == 3


def test_a_cache_is_filled_in_tasks_and_used_by_one_process(
    cluster: Any, data: Manifest, built_zoo: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    decoded, recorded = tmp_path / "decoded", Recorded()
    options: dict[str, Any] = {"bundle": built_zoo / "ct", "on": cluster.address, "progress": recorded}
    monkeypatch.setattr(shards, "SHARD_IMAGES", 10)
    monkeypatch.setattr(cache, "fill_part", work.fill_dies_once)
    monkeypatch.setattr(decode, "decode_case", never)
    summary = reslink.cache(data, decoded, **options)
    assert (summary["n"], summary["decoded"], summary["from_cache"]) == (24, 22, 0)
    assert sorted(summary["failed"]) == ["001.png", "005.png"]
    assert (tmp_path / "decoding died").exists()
    assert len(list(decoded.glob("shards/*/rows"))) == 3
    assert sorted(path.name for path in decoded.iterdir()) == [".lock", "files", "files.json", "shards"]

    [rows, *_] = sorted(decoded.glob("shards/*/rows"))
    shutil.rmtree(rows)
    again = reslink.cache(data, decoded, **options)
    assert (again["decoded"] + again["from_cache"], again["failed"]) == (22, summary["failed"])
    assert 0 < again["decoded"] <= 10, "only the shard that was missing"
    assert reslink.cache(data, decoded, verify=True, **options)["decoded"] == 0
    local = reslink.cache(data, decoded, bundle=built_zoo / "ct")
    assert (local["decoded"], local["from_cache"]) == (0, 22)
    assert reslink.evaluate(built_zoo / "ct", data, tmp_path / "out", cache=decoded)["n"] > 0
