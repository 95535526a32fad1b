"""Predictions on a cluster: in shards of files whose parts make the output of a single process, byte by byte."""

from __future__ import annotations

import io
import itertools
import json
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeAlias

from reslink import __version__
from reslink.api.predictions.table import CsvTable, json_row
from reslink.cluster.connection import ClusterAddress, connect
from reslink.cluster.nodes import check_files, load_classifier
from reslink.cluster.shards import Part, Shard, file_states, kept_parts, run_shards
from reslink.cluster.stored import Stored
from reslink.errors import StorageError, UsageError
from reslink.files import lock_folder, sha256
from reslink.imaging.dicom.series import read_series_uid
from reslink.imaging.image import Unit
from reslink.imaging.limits import ImagingWarning, warn
from reslink.imaging.search import ListedFiles, list_files, may_be_dicom
from reslink.inference.blocks import in_blocks
from reslink.inference.classifier import Classifier
from reslink.inference.prediction import Prediction
from reslink.inference.prediction_counts import PredictionCounts
from reslink.inference.series_answers import AFTER_FILES, FOR_SERIES, IN_ORDER, predict_sections
from reslink.inference.series_mode import SeriesMode
from reslink.printable_names import json_text
from reslink.remote_files import with_starts
from reslink.remote_paths import RemotePath
from reslink.temporary_database import TemporaryDatabase
from reslink.training.monitoring.progress import Progress

Output: TypeAlias = Literal["csv", "parquet", "json", "ascii"]

_Item: TypeAlias = tuple[str, ListedFiles]
"""Listed files with the UID of their series; empty where it does not matter."""

SECTIONS = (IN_ORDER, AFTER_FILES, FOR_SERIES)


@dataclass(frozen=True)
class PredictionJob:
    """The settings of a prediction in shards.

    Attributes:
        bundle: Name or folder of the bundle.
        bundle_digest: From :func:`reslink.cluster.nodes.bundle_digest`.
        backend: The name of a backend.
        batch_size: Number of slices per batch.
        unit: Unit of files that state none.
        sequence: The MR sequence of the files; None takes what each file states.
        series: As for :func:`reslink.predict`.
        output: ``csv`` or ``parquet`` for rows of such a table, ``json`` for JSON lines, ``ascii`` for JSON lines in ASCII.
    """

    bundle: str
    bundle_digest: str
    backend: str
    batch_size: int = 32
    unit: Unit | None = None
    sequence: str | None = None
    series: SeriesMode | None = None
    output: Output = "csv"


@dataclass(frozen=True)
class _ShardFiles:
    job: PredictionJob
    listed: tuple[ListedFiles, ...]

    @property
    def folder(self) -> str:
        return self.listed[0].folder

    @property
    def files(self) -> list[Path]:
        return [file for one in self.listed for file in one.files]


@dataclass(frozen=True)
class _StoredFiles:
    """As :class:`_ShardFiles`, with the files as JSON, which only the node reads."""

    job: PredictionJob
    folder: str
    listed: str


def predict_on_cluster(
    job: PredictionJob,
    paths: Iterable[str],
    write: Callable[[str], object],
    *,
    address: ClusterAddress,
    folder: Path,
    shard_size: int,
    progress: Progress,
) -> PredictionCounts:
    """Predicts files on a cluster, and writes what a single process would write.

    Args:
        job: The settings.
        paths: Files, folders and globs.
        write: Receives the lines in order: rows for ``write_rows`` of a table, or JSON lines.
        address: The cluster.
        folder: The folder for the parts, on storage that all nodes share. It stays, so that the same call resumes, and reads
            the shards again in which files could not be fetched; remove it once the output is safe.
        shard_size: Number of files of a shard; rounded up to whole blocks.
        progress: Receives the progress.

    Raises:
        UsageError: If an option is invalid, the cluster cannot be used, or another process works in the folder.
        InputError: If a task died again and again.
    """
    with connect(address), lock_folder(folder):
        listed = (one for path in paths for one in list_files(path))
        with stored_shards(job, cut_shards(job, listed, shard_size, folder), folder) as shards:
            with kept_parts(shards, folder, progress):
                run_shards(shards, _predict_stored, folder, progress, "Predict")
            counts = join_parts(shards, folder, write)
    return counts


def stored_shards(job: PredictionJob, shards: Iterable[Shard], folder: Path) -> Stored[Shard]:
    """Returns the shards of a job with their lists of files on disk, in a temporary file in ``folder``."""
    return Stored(
        shards,
        lambda shard: [
            *(shard.digest, shard.n_files, shard.first, shard.content.folder),
            json.dumps([_listed_to_json(one) for one in shard.content.listed]),
        ],
        lambda row: Shard(row[0], row[1], row[2], _StoredFiles(job, row[3], row[4])),
        folder,
    )


def _listed_to_json(listed: ListedFiles) -> list[Any]:
    paths = [[file.url, file.version] if isinstance(file, RemotePath) else [str(file)] for file in listed.files]
    return [paths, listed.folder, listed.given, listed.error]


def _listed_from_json(row: Sequence[Any]) -> ListedFiles:
    return ListedFiles(tuple(RemotePath(*path) if len(path) > 1 else Path(*path) for path in row[0]), *row[1:])


def cut_shards(
    job: PredictionJob, listed: Iterable[ListedFiles], shard_size: int, temporary: Path | None = None
) -> Iterator[Shard]:
    """Cuts files into shards. A shard has files of one folder, and a DICOM series is in one shard.

    Args:
        job: The settings.
        listed: The files in order.
        shard_size: Number of files of a shard; rounded up to whole blocks (:func:`in_blocks`), so that a slice shares its
            batch with the same slices as in a single process.
        temporary: A folder for temporary files.

    Yields:
        The shards in order. In memory are the files of one shard.

    Raises:
        UsageError: If the files of one series are given one by one, with a folder between them.
    """
    seen: set[str] = set()
    stored = partial(Stored[_Item], encode=_item_to_json, decode=_item_from_json, folder=temporary)
    for folder, group in groupby(listed, key=lambda one: one.folder):
        if job.series == "each":
            parts = _cut((("", one) for one in group), lambda _: 0, job.batch_size, shard_size)
            yield from (_shard(_ShardFiles(job, part)) for part in parts)
            continue
        with _SeriesEnds() as ends, stored(ends.noted(_with_series(group))) as run:
            if not folder:
                _check_together(seen, set(ends.uids()))
            parts = _cut(run, ends.last, job.batch_size, shard_size)
            yield from (_shard(_ShardFiles(job, part)) for part in parts)


def _item_to_json(item: _Item) -> list[Any]:
    return [item[0], *_listed_to_json(item[1])]


def _item_from_json(row: Sequence[Any]) -> _Item:
    return row[0], _listed_from_json(row[1:])


def _with_series(group: Iterable[ListedFiles]) -> Iterator[_Item]:
    """Yields listed files with the UID of their series; headers in a storage are fetched several at once."""
    listed, ahead = itertools.tee(group)
    firsts = (one.files[0] if one.files else Path() for one in ahead)
    for one, _ in zip(listed, with_starts(firsts, may_be_dicom), strict=True):
        yield _series_of(one), one


def _series_of(one: ListedFiles) -> str:
    """Returns the Series Instance UID of an item; empty for other files, also for a listed remote one with their suffix."""
    if not one.files:
        return ""
    file = one.files[0]
    if isinstance(file, RemotePath) and file.version and not may_be_dicom(file):
        return ""
    return read_series_uid(file)


def _check_together(seen: set[str], series: Collection[str]) -> None:
    if not seen.isdisjoint(series):
        raise UsageError(
            "Files of one series were given before and after a folder",
            "With --on, the files of a series are given next to each other, or as a folder",
            "Change the order of the paths",
        )
    seen.update(series)


class _SeriesEnds(TemporaryDatabase):
    """Where the series of a folder end, on disk: there may be as many series as files."""

    def __init__(self) -> None:
        super().__init__("CREATE TABLE series (uid TEXT PRIMARY KEY, last INTEGER) WITHOUT ROWID")

    def noted(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yields items, and notes the index of the last one of each series."""
        for i, item in enumerate(items):
            if item[0]:
                self.run("INSERT OR REPLACE INTO series VALUES (?, ?)", item[0], i)
            yield item

    def uids(self) -> Iterator[str]:
        """Yields the UID of each series."""
        for (uid,) in self.rows("SELECT uid FROM series"):
            yield uid

    def last(self, uid: str) -> int:
        """Returns the index of the last item of a series."""
        [(i,)] = self.rows("SELECT last FROM series WHERE uid = ?", uid)
        return int(i)


def _cut(run: Iterable[_Item], last: Callable[[str], int], batch_size: int, size: int) -> Iterator[tuple[ListedFiles, ...]]:
    """Yields parts of a run that end with a block and split no series; ``last`` returns the index of its last item."""
    part: list[ListedFiles] = []
    i = n_files = end_of_series = 0

    def listed() -> Iterator[ListedFiles]:
        nonlocal i, end_of_series
        for i, (uid, one) in enumerate(run, start=1):
            end_of_series = max(end_of_series, last(uid) if uid else i - 1)
            yield one

    for item in in_blocks(listed(), batch_size):
        if isinstance(item, ListedFiles):
            part.append(item)
            n_files += len(item.files)
        elif n_files >= size and i > end_of_series:
            yield tuple(part)
            part, n_files = [], 0
    if part:
        yield tuple(part)


def _shard(files: _ShardFiles) -> Shard:
    paths = files.files
    states = iter(file_states(paths))
    listed = [[one.folder, one.given, one.error, [next(states) for _ in one.files]] for one in files.listed]
    digest = sha256(json.dumps([__version__, asdict(files.job), listed]))
    return Shard(digest, len(paths), str(paths[0]) if paths else files.listed[0].given, files)


def predict_shard(shard: _ShardFiles) -> Part:
    """Predicts the files of a shard in this process.

    Returns:
        The part: a line of JSON with the counts, the warnings and the bytes of each section, and then the sections. It is not
        final if a storage gave no file.

    Raises:
        UsageError: If this machine has another bundle, or none of the files.
    """
    job = shard.job
    classifier = load_classifier(job.bundle, job.bundle_digest, job.backend, job.sequence)
    check_files(shard.files)
    counts = PredictionCounts()
    lines: tuple[list[str], ...] = tuple([] for _ in SECTIONS)
    line_of = _line_of(classifier, job.output)
    has_slice_answers = job.series == "auto" and classifier.bundle.case == "slice"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = predict_sections(classifier, shard.listed, job.batch_size, mode=job.series, unit=job.unit)
        for prediction, _, section in answers:
            counts.add(prediction, has_slice_answers=has_slice_answers)
            lines[section].append(line_of(prediction))
    sections = ["".join(section).encode() for section in lines]
    texts = dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, ImagingWarning))
    head = {"counts": asdict(counts), "warnings": list(texts), "bytes": [len(section) for section in sections]}
    return Part(b"".join([json.dumps(head).encode(), b"\n", *sections]), counts.failed, is_final=not counts.not_fetched)


def _predict_stored(shard: _StoredFiles) -> Part:
    return predict_shard(_ShardFiles(shard.job, tuple(map(_listed_from_json, json.loads(shard.listed)))))


def _line_of(classifier: Classifier, output: Output) -> Callable[[Prediction], str]:
    if output == "csv":
        return _csv_row(classifier)
    if output == "parquet":
        return partial(json_row, labels=classifier.labels)
    scope = classifier.bundle.statement
    return lambda prediction: json_text({**prediction.as_dict(), "scope": scope}, only_ascii=output == "ascii") + "\n"


def _csv_row(classifier: Classifier) -> Callable[[Prediction], str]:
    stream = io.StringIO()
    table = CsvTable(stream, classifier.labels)

    def row(prediction: Prediction) -> str:
        stream.seek(0)
        stream.truncate()
        table.write(prediction)
        return stream.getvalue()

    return row


def join_parts(shards: Iterable[Shard], folder: Path, write: Callable[[str], object]) -> PredictionCounts:
    """Writes the parts in the order of a single process, with one section in memory at a time.

    Args:
        shards: The shards, each with its part.
        folder: The folder of the parts.
        write: Receives the lines.

    Returns:
        The counts of all predictions. Warnings about the images are issued again.

    Raises:
        StorageError: If a part cannot be read.
    """
    counts = PredictionCounts()
    for shard, section in _in_order(shards):
        head, lines = _read_section(shard.path(folder), section)
        write(lines)
        if section == IN_ORDER:
            counts += PredictionCounts(**head["counts"])
            for text in head["warnings"]:
                warn(text)
    return counts


def _in_order(shards: Iterable[Shard]) -> Iterator[tuple[Shard, int]]:
    """Yields shards and sections: each folder as a whole; series of files that were given one by one come last."""
    runs: list[list[Shard]] = []
    singles: list[Shard] = []
    for folder, group in groupby(shards, key=lambda shard: shard.content.folder):
        runs.append([replace(shard, content=folder) for shard in group])
        singles += [] if folder else runs[-1]
    for run in runs:
        yield from ((shard, IN_ORDER) for shard in run)
        ended = [singles] if run is runs[-1] else []  # before the series of a last folder
        ended += [run] if run[0].content else []
        yield from ((shard, section) for files in ended for section in (AFTER_FILES, FOR_SERIES) for shard in files)


def _read_section(path: Path, section: int) -> tuple[dict[str, Any], str]:
    try:
        with path.open("rb") as stream:
            head = json.loads(stream.readline())
            stream.seek(sum(head["bytes"][:section]), os.SEEK_CUR)
            return head, stream.read(head["bytes"][section]).decode()
    except OSError as error:
        raise StorageError(
            f"The part {path} could not be read: {error.strerror or error}",
            "Nodes write their parts to a folder on shared storage, from which they are joined",
            "Check the storage, then run the same command again",
        ) from error
