"""A queue on disk that survives a kill: every state is a folder, every change of state a rename.

An instance is on the disk before its sender is told so; a result is deleted after its receiver has it. What a kill cuts off
is done again, under the same UIDs, so that nothing is lost and nothing stands twice in the archive.
"""

from __future__ import annotations

import contextlib
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

from reslink.files import lock_folder, sha256, sync_folder, write_atomic, write_json

STATES: Final = ("incoming", "receiving", "working", "sending", "kept", "failed", "done")
"""Folders of a queue: half-written files; series that still grow; series to answer; results to send; series answered not long
ago; what could not be done; what was done, in words without identity."""

REMEMBERED: Final = 30 * 24 * 3600.0
"""Seconds for which it is remembered that a series was answered."""

_ATTEMPTS: Final = ".attempts"
_RELEASED: Final = ".released"


class Queue:
    """The series that came in and what became of them.

    One process holds a queue at a time. Methods may be called from several threads.

    Args:
        folder: Made where it is missing, readable for its owner only.
        keep: Seconds for which the slices of an answered series are kept, so that late ones complete it.
    """

    def __init__(self, folder: Path, keep: float = 600.0) -> None:
        self.folder, self.keep = folder, keep
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Queue]:
        """Holds the queue for this process and puts in order what a kill left.

        Raises:
            UsageError: If another process holds it.
        """
        with lock_folder(self.folder):
            self.folder.chmod(0o700)
            for state in STATES:
                (self.folder / state).mkdir(exist_ok=True)
            for left in (self.folder / "incoming").iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            for key in self.names("working"):
                if (self.folder / "sending" / key).exists():
                    self._retire(key)
            yield self

    def names(self, state: str) -> list[str]:
        """Returns the series in a state, the one that changed first in front."""
        found = []
        for path in (self.folder / state).iterdir():
            with contextlib.suppress(FileNotFoundError):  # it moved on
                found.append((path.stat().st_mtime_ns, path.name))
        return [name for _, name in sorted(found)]

    def add(self, key: str, instance: str, content: bytes) -> None:
        """Keeps an instance; once this returns, a kill does not lose it.

        Args:
            key: Of its series.
            instance: Its SOP Instance UID. A second one with the same UID replaces the first.
            content: The whole file.

        Raises:
            OSError: If it cannot be written.
        """
        part = self._new_name()
        try:
            with part.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            with self._lock:
                self._take(key, part, f"{sha256(instance)[:32]}.dcm")
        finally:
            part.unlink(missing_ok=True)  # there still where the disk is full

    def _take(self, key: str, part: Path, name: str) -> None:
        series = self.folder / "receiving" / key
        new = not series.exists()
        series.mkdir(exist_ok=True)
        (series / _RELEASED).unlink(missing_ok=True)
        part.replace(series / name)
        sync_folder(series)
        if new:
            sync_folder(series.parent)

    def release(self, key: str) -> None:
        """Marks that who sent the last slice of a series ended in good order; the next slice takes the mark away."""
        with self._lock, contextlib.suppress(FileNotFoundError):  # it was closed before
            (self.folder / "receiving" / key / _RELEASED).touch()

    def released(self, key: str) -> bool:
        """Whether the mark of :meth:`release` is there; a kill does not take it away."""
        return (self.folder / "receiving" / key / _RELEASED).exists()

    def close(self, key: str) -> bool:
        """Moves a series that grows no more to those to answer, with the slices that were kept of it.

        Returns:
            Whether it was moved; not where its last answer is still on its way.
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
                sync_folder(series)
                self._delete(kept)
            series.replace(target)
            sync_folder(target.parent)
            return True

    def missing(self, key: str) -> int:
        """Returns how many slices of its last answer a series to answer lacks: late ones came alone, after ``keep``."""
        record = self.record(key)
        there = {path.stem for path in _instances(self.folder / "working" / key)}
        return len(set(record.get("instances", ())) - there) if record.get("answered") else 0

    def attempt(self, key: str) -> int:
        """Counts an attempt to answer a series, and returns the count; a kill does not set it back."""
        path = self.folder / "working" / key / _ATTEMPTS
        count = int(path.read_text()) + 1 if path.exists() else 1
        write_atomic(path, str(count))
        return count

    def take_back_attempt(self, key: str) -> None:
        """Forgets the attempts at a series: what failed was the machine."""
        (self.folder / "working" / key / _ATTEMPTS).unlink(missing_ok=True)

    def answered(self, key: str, results: Sequence[tuple[str, bytes]], said: Sequence[str]) -> None:
        """Keeps the results of a series, to be sent; its slices are kept for a while.

        Args:
            key: Of the series.
            results: Name and content of each file; none for a series that is refused.
            said: What is remembered of it, without identity.
        """
        part = self.folder / "incoming" / f"{key}.results"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name, content in results:
            write_atomic(part / name, content)
        instances = sorted(path.stem for path in _instances(self.folder / "working" / key))
        record = {"series": key, "answered": bool(results), "instances": instances, "results": len(results), "said": list(said)}
        if not results and (before := self.record(key)).get("answered"):
            record |= {"answered": True, "instances": before["instances"]}  # of its answer, which a refusal does not undo
        write_json(part / "record.json", record)
        target = self.folder / "sending" / key
        part.replace(target)
        sync_folder(target.parent)
        self._retire(key)

    def unsent(self, key: str) -> list[Path]:
        """Returns the results of a series that are still to be sent, by name."""
        return sorted((self.folder / "sending" / key).glob("*.dcm"))

    def to_send(self) -> list[str]:
        """Returns the series whose results are to be sent."""
        return [key for key in self.names("sending") if not (self.folder / "working" / key).exists()]

    def sent(self, path: Path) -> None:
        """Forgets a result that its receiver has."""
        path.unlink(missing_ok=True)

    def set_aside(self, path: Path) -> None:
        """Keeps a result that its receiver will never take, for a person to look at."""
        target = self.folder / "failed" / path.parent.name
        target.mkdir(exist_ok=True)
        path.replace(target / path.name)

    def finish(self, key: str) -> None:
        """Remembers a series as done, once all of its results are sent."""
        series = self.folder / "sending" / key
        record = json.loads((series / "record.json").read_text())
        write_json(self.folder / "done" / f"{key}.json", record | {"at": datetime.now(UTC).isoformat(timespec="seconds")})
        self._delete(series)

    def fail(self, key: str) -> None:
        """Puts a series aside that could not be answered, for a person to look at."""
        target = self.folder / "failed" / key
        self._delete(target)
        (self.folder / "working" / key).replace(target)

    def record(self, key: str) -> dict[str, Any]:
        """Returns what is remembered of a series; empty where nothing is."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "done" / f"{key}.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def expire(self) -> None:
        """Deletes slices that were kept long enough and that no late one waits for, and what was remembered long enough."""
        for state, seconds in (("kept", self.keep), ("done", REMEMBERED)):
            for path in (self.folder / state).iterdir():
                with self._lock, contextlib.suppress(FileNotFoundError):
                    awaited = state == "kept" and (self.folder / "receiving" / path.name).exists()
                    if time.time() - path.stat().st_mtime > seconds and not awaited:
                        self._delete(path)

    def _new_name(self) -> Path:
        return self.folder / "incoming" / secrets.token_hex(8)

    def _delete(self, path: Path) -> None:
        """Deletes a file or folder, whole as far as anyone can see: a kill leaves no half of it in its place."""
        if path.exists():
            gone = path.replace(self._new_name())
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()

    def _retire(self, key: str) -> None:
        with self._lock:
            target = self.folder / "kept" / key
            self._delete(target)
            series = self.folder / "working" / key
            (series / _ATTEMPTS).unlink(missing_ok=True)
            os.utime(series)
            series.replace(target)
            sync_folder(target.parent)


def _instances(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))
