"""The parts of shards make the output of one process; the cluster itself is tested in ``tests/cluster``."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reslink.api.predictions.shards import (
    PredictionJob,
    _listed_from_json,
    _predict_stored,
    _ShardFiles,
    cut_shards,
    join_parts,
    predict_shard,
    stored_shards,
)
from reslink.api.predictions.table import CsvTable, json_row
from reslink.bundles.bundle import Bundle
from reslink.cluster.nodes import bundle_digest
from reslink.cluster.shards import Shard
from reslink.errors import StorageError, UsageError
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.search import ListedFiles, list_files
from reslink.inference.classifier import Classifier
from reslink.inference.prediction_counts import PredictionCounts
from reslink.inference.series_answers import predict_series
from reslink.printable_names import json_text
from reslink.remote_paths import RemotePath

sys.path.insert(0, str(Path(__file__).parents[2] / "inference"))
from test_series_answers import head, write_series


@pytest.fixture
def job(built_zoo: Path) -> PredictionJob:
    folder = str(built_zoo / "ct")
    return PredictionJob(folder, bundle_digest(Bundle.load(folder)), "onnxruntime", batch_size=1, series="auto")


@pytest.fixture(scope="module")
def scans(ring_heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a volume, series in one and in several folders, lone slices, and files that cannot be read."""
    root = tmp_path_factory.mktemp("scans")
    for i in range(7):
        shutil.copy(ring_heads / f"{60 + i}.png", root / f"{i}.png")
    (root / "3.png").write_bytes(b"\x89PNG no picture")
    np.save(root / "volume.npy", np.stack([head(40), head(60), head(20)]).clip(0, 255).astype(np.uint8))
    write_series(root / "b")
    write_series(root / "c" / "1", (0.0, 10.0, 20.0), "1.2.3")
    write_series(root / "c" / "2", (5.0,), "1.2.4")
    write_series(root / "c" / "3", (30.0, 40.0, 80.0), "1.2.3")
    write_series(root / "d", (5.0,), "1.2.5")
    write_series(root / "e", (5.0, 1.0), "1.2.6")
    return root


def one_process(job: PredictionJob, paths: Sequence[str]) -> tuple[str, PredictionCounts, list[str]]:
    """The lines that one process writes, the counts and the warnings."""
    classifier = Classifier.load(job.bundle, device="cpu", backend=job.backend, threads=1)
    stream, counts = io.StringIO(), PredictionCounts()
    table = CsvTable(stream, classifier.labels)
    stream.truncate(0)
    stream.seek(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for prediction, _ in predict_series(classifier, paths, job.batch_size, mode=job.series, unit=job.unit):
            counts.add(prediction, has_slice_answers=job.series == "auto")
            if job.output == "csv":
                table.write(prediction)
            elif job.output == "parquet":
                stream.write(json_row(prediction, classifier.labels))
            else:
                line = {**prediction.as_dict(), "scope": classifier.bundle.statement}
                stream.write(json_text(line, only_ascii=job.output == "ascii") + "\n")
    return stream.getvalue(), counts, sorted({str(one.message) for one in caught})


def in_shards(job: PredictionJob, paths: Sequence[str], folder: Path, size: int) -> tuple[str, PredictionCounts, list[str]]:
    """The same in shards, of which the last is computed first."""
    folder.mkdir(exist_ok=True)
    shards = shards_of(job, paths, size)
    for shard in reversed(shards):
        part = predict_shard(shard.content)
        shard.path(folder).write_bytes(part.content)
        assert part.is_final
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        counts = join_parts(shards, folder, lines.append)
    return "".join(lines), counts, sorted({str(one.message) for one in caught})


def shards_of(job: PredictionJob, paths: Sequence[str], size: int) -> list[Shard]:
    return list(cut_shards(job, (listed for path in paths for listed in list_files(path)), size))


@pytest.mark.parametrize(
    ("mode", "output", "blocks", "batch_size"),
    [
        ("auto", "csv", 1, 1),
        ("auto", "json", 1, 3),
        ("each", "ascii", 2, 2),
        ("only", "parquet", 1, 1),
        ("auto", "parquet", 2, 1),
    ],
)
def test_any_mode_and_format_gives_the_lines_of_one_process(
    job, scans, tmp_path, monkeypatch, mode, output, blocks, batch_size
):
    monkeypatch.chdir(scans)
    files = [str(path) for path in sorted(Path("b").iterdir())]
    paths = [files[0], "0.png", *files[1:], "nowhere", ".", "c", "c", "*.png", "d", "e"]
    job = replace(job, series=mode, output=output)
    monkeypatch.setattr("reslink.inference.blocks.BLOCK_BATCHES", blocks)
    job = replace(job, batch_size=batch_size)
    assert len(shards_of(job, paths, 1)) > 9
    expected = one_process(job, paths)
    assert expected[1].failed >= 2
    assert any("uneven gaps" in text for text in expected[2]) == (mode != "each")
    assert in_shards(job, paths, tmp_path / "parts", 1) == expected
    assert in_shards(job, paths, tmp_path / "parts", 5) == expected


def test_series_of_single_files_come_before_those_of_a_last_folder(job, scans, tmp_path) -> None:
    files = [str(path) for path in sorted((scans / "b").iterdir())]
    for paths in ([*files, str(scans / "c")], [str(scans / "c"), *files]):
        assert in_shards(job, paths, tmp_path / "parts", 1) == one_process(job, paths)


def test_a_series_is_in_one_shard_however_small_that_is(job, scans, monkeypatch) -> None:
    monkeypatch.setattr("reslink.inference.blocks.BLOCK_BATCHES", 1)
    shards = shards_of(job, [str(scans / "c")], 1)
    assert [shard.n_files for shard in shards] == [7], "1.2.4 is between the two folders of 1.2.3"
    each = shards_of(replace(job, series="each"), [str(scans / "c")], 1)
    assert [shard.n_files for shard in each] == [3, 1, 3]


def test_a_shard_holds_whole_blocks(job) -> None:
    listed = [ListedFiles((Path(f"{i}.png"),), "f", "f") for i in range(300)]
    assert [shard.n_files for shard in cut_shards(replace(job, batch_size=4), listed, 100)] == [128, 128, 44]


def test_files_without_series_are_cut_while_they_are_listed(job) -> None:
    n_listed = 0

    def listed():
        nonlocal n_listed
        for n_listed in range(1, 1001):
            yield ListedFiles((Path(f"{n_listed}.png"),), "f", "f")

    shards = cut_shards(replace(job, series="each"), listed(), 100)
    assert (next(shards).n_files, n_listed) == (104, 104)
    assert sum(shard.n_files for shard in shards) == 896


def test_the_memory_does_not_grow_with_the_number_of_series(job, monkeypatch) -> None:
    monkeypatch.setattr("reslink.api.predictions.shards._series_of", lambda one: f"1.2.3.{one.given}")
    peaks = []
    for count in (5000, 21_000):
        # few names: Python keeps a table of all names of paths, which grows at moments of its own
        listed = (ListedFiles((Path(f"{i % 100}.dcm"),), "f", str(i)) for i in range(count))
        tracemalloc.start()
        assert sum(shard.n_files for shard in cut_shards(job, listed, 500)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 16_000 * 20, "a UID with its index needs 200 bytes"


def test_single_files_of_one_series_with_a_folder_between_are_refused(job, scans) -> None:
    first, *others = (str(path) for path in sorted((scans / "b").iterdir()))
    with pytest.raises(UsageError, match="Files of one series were given before and after a folder"):
        shards_of(job, [first, str(scans / "d"), *others], 1)


def test_the_digest_changes_with_whatever_decides_the_part(job, scans, tmp_path) -> None:
    shutil.copy(scans / "0.png", tmp_path / "0.png")

    def digest(job: PredictionJob) -> str:
        [shard] = shards_of(job, [str(tmp_path)], 10)
        return shard.digest

    digests = [digest(job), digest(job)]
    assert digests[0] == digests[1]
    digests = [digest(replace(job, **{name: "x"})) for name in ("bundle_digest", "backend", "unit", "output")]
    digests.append(digest(replace(job, series="each")))
    digests.append(digest(job))
    (tmp_path / "0.png").touch()
    digests.append(digest(job))
    shutil.copy(scans / "1.png", tmp_path / "0.png")
    digests.append(digest(job))
    assert all(a != b for a, b in itertools.combinations(digests, 2))


def test_another_bundle_or_no_files_on_a_node_are_refused(job, scans) -> None:
    [shard] = shards_of(job, [str(scans / "0.png")], 10)
    other = replace(shard.content, job=replace(job, bundle_digest="other"))
    with pytest.raises(UsageError, match="has other content on a node"):
        predict_shard(other)
    gone = replace(shard.content, listed=(ListedFiles((Path("/gone/a.png"), Path("/gone/b.png")), "/gone", "/gone"),))
    with pytest.raises(UsageError, match=r"sees none of the 2 files from /gone/a\.png on"):
        predict_shard(gone)


def test_a_part_that_is_not_there_is_named(job, scans, tmp_path) -> None:
    shards = shards_of(job, [str(scans / "0.png")], 10)
    with pytest.raises(StorageError, match=f"{shards[0].digest}.part could not be read"):
        join_parts(shards, tmp_path, print)


def test_warnings_are_issued_again(job, scans, tmp_path) -> None:
    shards = shards_of(job, [str(scans / "c")], 10)
    for shard in shards:
        shard.path(tmp_path).write_bytes(predict_shard(shard.content)[0])
    with pytest.warns(ImagingWarning, match="uneven gaps"):
        join_parts(shards, tmp_path, [].append)


def test_remote_paths_in_stored_shards_keep_their_urls(job, tmp_path) -> None:
    remote = RemotePath("https://example.org/a.png?version=2", "v")
    listed = [ListedFiles((remote, Path("b.png")), "f", "f")]
    with stored_shards(job, [Shard("d", 2, "a", _ShardFiles(job, tuple(listed)))], tmp_path) as shards:
        [shard] = shards
    [stored] = map(_listed_from_json, json.loads(shard.content.listed))
    assert stored == listed[0]
    assert stored.files[0].url == "https://example.org/a.png?version=2"
    assert stored.files[0].version == "v"


def test_headers_of_series_are_fetched_several_at_once(job, scans, s3) -> None:
    files = [file for file in sorted(scans.rglob("*.dcm")) if file.parent.name != "2"]
    listed = []
    for i, file in enumerate(files):
        url = s3.put(f"at-once/{i}.dcm", file.read_bytes())
        listed.append(ListedFiles((RemotePath(url, f"version {i}"),), "f", "f"))
    s3.reset()
    together = threading.Barrier(4)
    s3.refuse = lambda number, *_: number < 4 and bool(together.wait(20)) and False
    assert sum(shard.n_files for shard in cut_shards(job, listed, 1)) == len(files) > 4
    assert not together.broken
    assert len(s3.requests) == len(files)


def test_remote_files_are_listed_with_one_request_each_and_give_the_rows_of_local_ones(job, scans, s3, tmp_path) -> None:
    files = sorted(file for file in scans.rglob("*") if file.is_file())
    for file in files:
        s3.put(f"scans/{file.relative_to(scans).as_posix()}", file.read_bytes())
    s3.reset()
    s3.refuse = lambda number, *_: number % 10 == 3
    with stored_shards(job, shards_of(job, ["s3://heads/scans/"], 4), tmp_path) as shards:
        answered = len(s3.requests) - sum(number % 10 == 3 for number in range(len(s3.requests)))
        assert answered == sum(file.suffix == ".dcm" for file in files) + 2  # two for the folder
        lines: list[str] = []
        for shard in shards:
            shard.path(tmp_path).write_bytes(_predict_stored(shard.content)[0])
        with pytest.warns(ImagingWarning, match="uneven gaps"):
            counts = join_parts(shards, tmp_path, lines.append)
    rows, expected, _ = one_process(job, [str(scans)])
    assert counts.first_error.replace("s3://heads/scans", str(scans)) == expected.first_error
    assert replace(counts, first_error="") == replace(expected, first_error="")
    local = "".join(lines).replace("s3://heads/scans", str(scans)).splitlines()
    assert sorted(local) == sorted(rows.splitlines())  # the order of the folders differs
