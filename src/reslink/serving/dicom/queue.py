"""Crash-safe queue of DICOM series on disk. Each state is a folder, and each change of state is a rename.

An instance is stored before its receipt is acknowledged, and a result is deleted after the archive has acknowledged it.
Work that a crash interrupts is repeated with the same UIDs, so that no result is lost or duplicated in the archive.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from reslink.files import fsync_folder, lock_folder, remove_parts, sha256, write_atomic, write_json

STATES: Final = ("incoming", "receiving", "working", "sending", "kept", "failed", "done")
"""Folders of a queue: partly written files, growing series, series to classify, results to send, recently classified series,
failed series and results, and records of completed series without patient data."""

RECORD_SECONDS: Final = 30 * 24 * 3600.0
"""How long the record of a completed series is kept."""

REFUSED: Final = ".refused"
"""Suffix of the mark of an instance that was refused and has to be sent again."""

EXCLUDED: Final = ".excluded"
"""Suffix of the mark of an instance that was accepted but not stored, as it is not a slice."""

REPLACED: Final = ".replaced"
"""Suffix of the mark of an instance that arrived again with other content."""

_MAX_SERIES_WITH_MARKS: Final = 1000
_MAX_UNWRITTEN_MARKS: Final = 1000
"""Marks of one kind of one series that are kept in memory."""

_RESULTS: Final = "*-*.dcm"
"""Names of results, unlike those of instances."""

_INTERRUPTED: Final = ".interrupted"
_ATTEMPTS: Final = ".attempts"
_RELEASED: Final = ".released"


class Queue:
    """Received series and their results.

    One process opens a queue at a time. Its methods are thread-safe.

    Args:
        folder: Folder of the queue, created if missing, readable by its owner only.
        keep: How long the slices of a classified series are kept in seconds, so that late slices can complete it.
    """

    def __init__(self, folder: Path, keep: float = 600.0) -> None:
        self.folder, self.keep = folder, keep
        self._lock = threading.Lock()
        self._unwritten_marks: dict[str, set[str]] = {}

    @contextlib.contextmanager
    def opened(self) -> Iterator[Queue]:
        """Locks the queue for this process and recovers from a crash.

        Raises:
            UsageError: If another process has locked it.
        """
        with lock_folder(self.folder):
            self.folder.chmod(0o700)
            for state in STATES:
                (self.folder / state).mkdir(exist_ok=True)
            for leftover in (self.folder / "incoming").iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            remove_parts(self.folder)
            for key in self.keys("working"):
                if (self.folder / "sending" / key).exists():
                    self._retire(key)
            yield self

    def keys(self, state: str) -> list[str]:
        """Returns the keys of the series in a state, the least recently changed first."""
        entries = []
        for path in (self.folder / state).iterdir():
            with contextlib.suppress(FileNotFoundError):  # it changed its state
                entries.append((path.stat().st_mtime_ns, path.name))
        return [name for _, name in sorted(entries)]

    def add(self, key: str, instance: str, content: bytes) -> None:
        """Stores an instance durably.

        Args:
            key: Key of its series.
            instance: SOP Instance UID. A second instance with the same UID replaces the first.
            content: The whole file.

        Raises:
            OSError: If it cannot be written.
        """
        partial = self._new_name()
        try:
            with partial.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            with self._lock:
                self._move_in(key, partial, f"{sha256(instance)[:32]}.dcm")
        finally:
            partial.unlink(missing_ok=True)  # it still exists after an error

    def _move_in(self, key: str, partial: Path, name: str) -> None:
        series = self.folder / "receiving" / key
        new = not series.exists()
        series.mkdir(exist_ok=True)
        (series / _RELEASED).unlink(missing_ok=True)
        if (series / name).exists() and not filecmp.cmp(partial, series / name, shallow=False):
            (series / name).with_suffix(REPLACED).touch()
        partial.replace(series / name)
        (series / name).with_suffix(REFUSED).unlink(missing_ok=True)
        self._unwritten_marks.get(key, set()).discard(Path(name).stem + REFUSED)
        self._write_marks(key)
        fsync_folder(series)
        if new:
            fsync_folder(series.parent)

    def mark(self, key: str, instance: str, kind: str) -> None:
        """Remembers an instance that is not stored: on disk if possible, as its disk may be full.

        Args:
            key: Key of its series.
            instance: SOP Instance UID.
            kind: ``REFUSED``, which begins a series of its own, or ``EXCLUDED``, which does not.
        """
        series = self.folder / "receiving" / key
        with self._lock:
            while key not in self._unwritten_marks and len(self._unwritten_marks) >= _MAX_SERIES_WITH_MARKS:
                self._unwritten_marks.pop(next(iter(self._unwritten_marks)))
            names = self._unwritten_marks.setdefault(key, set())
            if sum(name.endswith(kind) for name in names) < _MAX_UNWRITTEN_MARKS:
                names.add(f"{sha256(instance)[:32]}{kind}")
            if kind == REFUSED:
                with contextlib.suppress(OSError):
                    series.mkdir(exist_ok=True)
                (series / _RELEASED).unlink(missing_ok=True)
            self._write_marks(key)

    def _write_marks(self, key: str) -> None:
        series, names = self.folder / "receiving" / key, self._unwritten_marks.get(key, set())
        if series.exists():
            with contextlib.suppress(OSError):
                for name in sorted(names):
                    (series / name).touch()
                    names.discard(name)
        if not names:
            self._unwritten_marks.pop(key, None)

    def count_marks(self, state: str, key: str, kind: str) -> int:
        """Returns how many instances of a series have a mark of a kind, see :meth:`mark`."""
        with self._lock:
            written = {path.name for path in (self.folder / state / key).glob(f"*{kind}")}
            unwritten = self._unwritten_marks.get(key, set()) if state == "receiving" else set()
            return len(written | {name for name in unwritten if name.endswith(kind)})

    def missing_slices(self, key: str) -> list[str]:
        """Returns why a series to classify may be incomplete, as far as its transfer tells."""
        refused, series = self.count_marks("working", key, REFUSED), self.folder / "working" / key
        reasons = [f"{refused} of its slices {'was' if refused == 1 else 'were'} refused and did not arrive later"]
        interrupted = (series / _INTERRUPTED).exists()
        return reasons[: bool(refused)] + ["its association was not released, so that slices may be missing"] * interrupted

    def release(self, key: str) -> None:
        """Marks that the association of the last slice was released regularly. The next slice removes the mark."""
        with self._lock, contextlib.suppress(FileNotFoundError):  # the series was closed before
            (self.folder / "receiving" / key / _RELEASED).touch()

    def released(self, key: str) -> bool:
        """Returns whether the series has the mark of :meth:`release`, which survives a crash."""
        return (self.folder / "receiving" / key / _RELEASED).exists()

    def close(self, key: str, interrupted: bool = False) -> bool:
        """Moves a series, with its earlier slices that were kept, to the series to classify.

        Args:
            key: Key of the series.
            interrupted: Whether its association was not released after its last slice.

        Returns:
            Whether it was moved; False while its earlier results are not yet sent.
        """
        with self._lock:
            series, target = self.folder / "receiving" / key, self.folder / "working" / key
            if target.exists() or (self.folder / "sending" / key).exists():
                return False
            kept = self.folder / "kept" / key
            if kept.exists():
                for path in _instances(kept):
                    if not (series / path.name).exists():
                        path.replace(series / path.name)
                for path in [*kept.glob(f"*{REFUSED}"), *kept.glob(f"*{EXCLUDED}")]:
                    if not (series / path.name).with_suffix(".dcm").exists():
                        path.replace(series / path.name)
                fsync_folder(series)
                self._delete(kept)
            self._write_marks(key)
            if interrupted:
                (series / _INTERRUPTED).touch()
            series.replace(target)
            fsync_folder(target.parent)
            return True

    def missing(self, key: str) -> int:
        """Returns how many of its earlier slices a series lacks, as late slices arrived after ``keep``.

        A series that was refused or failed may be corrected and sent again without some of its slices, or under other UIDs: it
        lacks none if it has at least half as many.
        """
        earlier, present = self._earlier_instances(key), {path.stem for path in _instances(self.folder / "working" / key)}
        is_fragment = self.record(key).get("classified") or 2 * len(present) < len(earlier)
        return len(earlier - present) if is_fragment else 0

    def _earlier_instances(self, key: str) -> set[str]:
        """Returns the instances that a series had when it was classified, refused or failed."""
        failed = {path.stem for path in _instances(self.folder / "failed" / key)}
        return max(set(self.record(key).get("instances", ())), failed, key=len)

    def attempt(self, key: str) -> int:
        """Counts an attempt to classify a series, and returns the number of attempts, which survives a crash."""
        path = self.folder / "working" / key / _ATTEMPTS
        count = int(path.read_text()) + 1 if path.exists() else 1
        write_atomic(path, str(count))
        return count

    def reset_attempts(self, key: str) -> None:
        """Resets the attempts at a series after a failure of the machine."""
        (self.folder / "working" / key / _ATTEMPTS).unlink(missing_ok=True)

    def store_results(self, key: str, results: Sequence[tuple[str, bytes]], summary: Sequence[str]) -> None:
        """Stores the results of a series for sending, and keeps its slices for a while.

        Args:
            key: Key of the series.
            results: Name and content of each file; empty for a refused series.
            summary: Texts for the record, without patient data.
        """
        partial = self.folder / "incoming" / f"{key}.results"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, content in results:
            write_atomic(partial / name, content)
        instances = sorted(path.stem for path in _instances(self.folder / "working" / key))
        record = {
            "series": key,
            "classified": bool(results),
            "instances": instances,
            "results": len(results),
            "summary": list(summary),
        }
        was_classified, earlier = self.record(key).get("classified", False), self._earlier_instances(key)
        if not results and (was_classified or len(earlier) > len(instances)):
            # a refusal neither undoes an earlier classification, nor makes late slices a series
            record |= {"classified": was_classified, "instances": sorted(earlier)}
        write_json(partial / "record.json", record)
        target = self.folder / "sending" / key
        partial.replace(target)
        fsync_folder(target.parent)
        self._retire(key)

    def unsent(self, key: str) -> list[Path]:
        """Returns the unsent results of a series, sorted by name."""
        return sorted((self.folder / "sending" / key).glob("*.dcm"))

    def keys_to_send(self) -> list[str]:
        """Returns the keys of the series with unsent results."""
        return [key for key in self.keys("sending") if not (self.folder / "working" / key).exists()]

    def remove_sent(self, path: Path) -> None:
        """Deletes a result that the archive has acknowledged."""
        path.unlink(missing_ok=True)

    def set_aside(self, path: Path) -> None:
        """Moves a result that the archive permanently refuses to ``failed``."""
        target = self.folder / "failed" / path.parent.name
        target.mkdir(exist_ok=True)
        path.replace(target / path.name)

    def finish(self, key: str) -> None:
        """Records a series as completed after all of its results were sent."""
        series = self.folder / "sending" / key
        record = json.loads((series / "record.json").read_text())
        write_json(self.folder / "done" / f"{key}.json", record | {"at": datetime.now(UTC).isoformat(timespec="seconds")})
        self._delete(series)

    def fail(self, key: str) -> None:
        """Moves a series that could not be classified to ``failed``."""
        series, target = self.folder / "working" / key, self.folder / "failed" / key
        for path in target.glob(_RESULTS):  # of an earlier classification, see set_aside
            path.replace(series / path.name)
        self._delete(target)
        series.replace(target)

    def record(self, key: str) -> dict[str, Any]:
        """Returns the record of a completed series; empty if there is none."""
        try:
            record: dict[str, Any] = json.loads((self.folder / "done" / f"{key}.json").read_text())
        except FileNotFoundError:
            return {}
        return record

    def expire(self) -> None:
        """Deletes expired slices, unless late slices of their series are arriving, and expired records."""
        for state, seconds in (("kept", self.keep), ("done", RECORD_SECONDS)):
            for path in (self.folder / state).iterdir():
                with self._lock, contextlib.suppress(FileNotFoundError):
                    has_late_slices = state == "kept" and (self.folder / "receiving" / path.name).exists()
                    if time.time() - path.stat().st_mtime > seconds and not has_late_slices:
                        self._delete(path)

    def _new_name(self) -> Path:
        return self.folder / "incoming" / secrets.token_hex(8)

    def _delete(self, path: Path) -> None:
        """Deletes a file or folder atomically: it is moved away first, so that a crash leaves no part of it in its place."""
        if path.exists():
            trash = path.replace(self._new_name())
            shutil.rmtree(trash) if trash.is_dir() else trash.unlink()

    def _retire(self, key: str) -> None:
        with self._lock:
            target = self.folder / "kept" / key
            self._delete(target)
            series = self.folder / "working" / key
            (series / _ATTEMPTS).unlink(missing_ok=True)
            os.utime(series)
            series.replace(target)
            fsync_folder(target.parent)


def _instances(folder: Path) -> list[Path]:
    return sorted(set(folder.glob("*.dcm")) - set(folder.glob(_RESULTS)))
