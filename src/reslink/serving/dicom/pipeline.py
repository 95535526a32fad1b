"""Classifies complete series from the queue and sends the results; shared by the DICOM node and the DICOMweb client."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from reslink.errors import ReslinkError, StorageError
from reslink.serving.dicom.classify import Model, classify_series
from reslink.serving.dicom.completeness import IncompletePolicy
from reslink.serving.dicom.queue import EXCLUDED, REPLACED, Queue
from reslink.serving.dicom.results import create_results
from reslink.serving.dicom.series import read_head_series, redact_paths

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 10
"""A series during which the process crashed this often is moved to ``failed``."""

MAX_RETRY_SECONDS: Final = 300.0
"""Longest time between two attempts to reach an archive, or to classify a series while the disk is full."""


SUCCESS: Final = 0x0000
_DUPLICATE: Final = 0x0111  # the UID of a result is derived from its content
_TEMPORARY: Final = (0x0110, 0x0124)  # processing failure, such as of a database; not authorized (yet)


class SendError(Exception):
    """The archive did not accept a result.

    Args:
        reason: Reason for the log, without patient data.
        permanent: Whether the archive will never accept it.
    """

    def __init__(self, reason: str, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


def is_stored(status: int) -> bool:
    """Returns whether an archive has an object: after success, a warning, or as it had the object before.

    Args:
        status: Status of C-STORE, or Failure Reason of STOW-RS.
    """
    return status in (SUCCESS, _DUPLICATE) or status >> 12 == 0xB


def is_permanent_failure(status: int) -> bool:
    """Returns whether an archive will refuse an object again (PS3.4 B.2.3, PS3.7 annex C), unlike after a lack of space.

    Args:
        status: Status of C-STORE, or Failure Reason of STOW-RS.
    """
    return (status >> 8 in (0xA9, 0x01) and status not in _TEMPORARY) or status >> 12 == 0xC


class Session(Protocol):
    """An open connection to the archive."""

    def send(self, path: Path) -> None:
        """Sends a file; returns when the archive has acknowledged it.

        Raises:
            SendError: If the archive refuses it or cannot be reached.
        """


class Sender(Protocol):
    """Opens connections to the archive."""

    def session(self) -> AbstractContextManager[Session]:
        """Opens a connection; raises SendError if the archive cannot be reached."""


class Pipeline:
    """Classifies the series of a queue and sends the results.

    Args:
        queue: An opened queue.
        models: At least one model.
        sender: Connects to the archive.
        retry: Seconds before the second attempt after a failure of the archive or of this machine. Each further attempt waits
            twice as long, up to five minutes.
        incomplete: Whether incomplete series are classified and marked, or refused.
    """

    def __init__(
        self,
        queue: Queue,
        models: Sequence[Model],
        sender: Sender,
        retry: float = 2.0,
        incomplete: IncompletePolicy = "mark",
    ) -> None:
        self.queue, self.models, self.sender, self.retry = queue, tuple(models), sender, retry
        self.incomplete = incomplete
        self._failures: dict[str, int] = {}
        self._next: dict[str, float] = {}

    def process_next(self) -> bool:
        """Classifies the series that has waited longest; returns whether there was one."""
        key = next((key for key in self.queue.keys("working") if self._is_due(key)), None)
        if key is None:
            return False
        try:
            self._process(key)
        except (OSError, MemoryError, StorageError) as error:  # a failure of this machine, not of the series
            self.queue.reset_attempts(key)
            self._retry_later(key, "not classified", type(error).__name__)
            return False
        except Exception as error:  # noqa: BLE001  (an unexpected series must not stop the others)
            log.error("series %s: failed (%s)", key, type(error).__name__)
            self.queue.fail(key)
        self._reset_retry(key)
        return True

    def _process(self, key: str) -> None:
        if self.queue.attempt(key) > MAX_ATTEMPTS:
            log.error("series %s: failed after %d attempts", key, MAX_ATTEMPTS)
            self.queue.fail(key)
            return
        try:
            self._classify(key)
        except StorageError:
            raise
        except ReslinkError as error:
            reason = redact_paths(error.given, self.queue.folder)
            log.info("series %s: refused: %s", key, reason)
            self.queue.store_results(key, [], [reason])

    def _classify(self, key: str) -> None:
        missing = self.queue.missing(key)
        if missing:
            raise _LateSlicesError(missing)
        start = time.monotonic()
        series = read_head_series(
            self.queue.folder / "working" / key,
            not_stored=self.queue.count_marks("working", key, EXCLUDED),
            replaced=self.queue.count_marks("working", key, REPLACED),
            missing=self.queue.missing_slices(key),
            policy=self.incomplete,
        )
        models = [model for model in self.models if model.accepts(series)]
        if not models:
            raise _NoModelError(series.modality)
        files = [
            (f"{number}-{result.kind}.dcm", result.content)
            for number, model in enumerate(models)
            for result in create_results(classify_series(model, series))
        ]
        summary = [f"{series.modality}, {len(series.selected)} of {len(series.headers)} slices classified", *series.notes]
        summary += [f"incomplete: {reason}" for reason in series.incomplete]
        self.queue.store_results(key, files, summary)
        log.info("series %s: %s; %d results in %.1f s", key, "; ".join(summary), len(files), time.monotonic() - start)

    def deliver_results(self) -> bool:
        """Sends the results of every series that is due; returns whether any were sent."""
        progress = False
        for key in filter(self._is_due, self.queue.keys_to_send()):
            try:
                self._send(key)
            except SendError as error:
                self._retry_later(key, "not sent", str(error))
            except Exception as error:  # noqa: BLE001  (an unreadable result must not block the others)
                self._retry_later(key, "not sent", type(error).__name__)
            else:
                self._reset_retry(key)
                progress = True
        return progress

    def _send(self, key: str) -> None:
        paths = self.queue.unsent(key)
        if paths:
            with self.sender.session() as session:
                sent = [self._send_one(session, key, path) for path in paths]
            log.info("series %s: %s", key, "results sent" if all(sent) else f"{sum(sent)} of {len(sent)} results sent")
        self.queue.finish(key)

    def _send_one(self, session: Session, key: str, path: Path) -> bool:
        """Sends a result, or moves it to ``failed`` if the archive refuses it permanently; returns whether it was sent."""
        try:
            session.send(path)
        except SendError as error:
            if not error.permanent:
                raise
            log.error("series %s: the archive refuses the %s permanently (%s); it is moved to failed", key, path.stem, error)
            self.queue.set_aside(path)
            return False
        self.queue.remove_sent(path)
        return True

    def _is_due(self, key: str) -> bool:
        return time.monotonic() >= self._next.get(key, 0.0)

    def _reset_retry(self, key: str) -> None:
        self._failures.pop(key, None)
        self._next.pop(key, None)

    def _retry_later(self, key: str, event: str, reason: str) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        wait = min(MAX_RETRY_SECONDS, self.retry * 2 ** min(count - 1, 16))
        self._next[key] = time.monotonic() + wait
        log.warning("series %s: %s (%s); next attempt in %.0f s", key, event, reason, wait)

    def start(self, stop: threading.Event, pause: float = 0.2) -> list[threading.Thread]:
        """Starts one thread that classifies and one that sends, until ``stop`` is set.

        A thread finishes its current series before it stops.
        """
        threads = [
            threading.Thread(target=self._loop, args=(task, stop, pause), name=task.__name__)
            for task in (self.process_next, self.deliver_results)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _loop(self, task: _Task, stop: threading.Event, pause: float) -> None:
        while not stop.is_set():
            try:
                idle = not task()
            except Exception as error:  # noqa: BLE001  (for example a full disk: the thread must continue)
                log.error("%s: %s", task.__name__, error.__class__.__name__)
                idle = True
            if idle:
                stop.wait(pause)


class _Task(Protocol):
    __name__: str

    def __call__(self) -> bool: ...


class _LateSlicesError(ReslinkError):
    def __init__(self, missing: int) -> None:
        super().__init__(
            f"late slices of a series that was received before, {missing} of its earlier slices are gone",
            "A series can only be classified as a whole",
            "Send the whole series again",
        )


class _NoModelError(ReslinkError):
    def __init__(self, modality: str) -> None:
        super().__init__(
            f"no bundle classifies {modality}", "A bundle classifies CT, MR or both", "Start the node with another bundle"
        )
