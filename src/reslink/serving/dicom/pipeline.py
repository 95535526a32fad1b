"""From a finished series in the queue to results at the archive: what the DICOM node and the DICOMweb client share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from reslink.errors import ReslinkError, StorageError
from reslink.serving.dicom.classify import Model, answer
from reslink.serving.dicom.queue import Queue
from reslink.serving.dicom.results import results
from reslink.serving.dicom.series import nameless, read_head

log = logging.getLogger(__name__)

MOST_ATTEMPTS: Final = 10
"""A series on which the process died this often is put aside."""

LONGEST_WAIT: Final = 300.0
"""Seconds between attempts to reach an archive, or to answer a series while the disk is full, at most."""


class SendError(Exception):
    """A result did not reach the archive.

    Args:
        why: What is said in the log; no identity.
        lasting: Whether the archive will never take it.
    """

    def __init__(self, why: str, lasting: bool = False) -> None:
        super().__init__(why)
        self.lasting = lasting


def lasts(status: int) -> bool:
    """Whether an archive that refused an object will refuse it again (PS3.4 B.2.3, PS3.7 annex C): not where it lacked room.

    Args:
        status: Of C-STORE, or the Failure Reason of STOW-RS.
    """
    return status >> 8 in (0xA9, 0x01) or status >> 12 == 0xC


class Session(Protocol):
    """An open way to the archive."""

    def send(self, path: Path) -> None:
        """Sends a file; returns once the archive has it.

        Raises:
            SendError: If it does not.
        """


class Sender(Protocol):
    """Opens ways to the archive."""

    def session(self) -> AbstractContextManager[Session]:
        """Opens one; raises SendError where the archive cannot be reached."""


class Pipeline:
    """Answers the series of a queue and sends the results.

    Args:
        queue: Opened.
        models: At least one.
        sender: The way to the archive.
        retry: Seconds before the second attempt where the archive or this machine failed; each further one waits twice as
            long, up to five minutes.
    """

    def __init__(self, queue: Queue, models: Sequence[Model], sender: Sender, retry: float = 2.0) -> None:
        self.queue, self.models, self.sender, self.retry = queue, tuple(models), sender, retry
        self._failures: dict[str, int] = {}
        self._next: dict[str, float] = {}

    def work(self) -> bool:
        """Answers the series that waits longest, if there is one; returns whether there was."""
        key = next((key for key in self.queue.names("working") if self._is_due(key)), None)
        if key is None:
            return False
        try:
            self._work_on(key)
        except (OSError, MemoryError, StorageError) as error:  # a fault of this machine and not of the series
            self.queue.take_back_attempt(key)
            self._later(key, "not answered", type(error).__name__)
            return False
        except Exception as error:  # noqa: BLE001  (a series that no one thought of must not stop the others)
            log.error("series %s: put aside, %s", key, type(error).__name__)
            self.queue.fail(key)
        self._in_time(key)
        return True

    def _work_on(self, key: str) -> None:
        if self.queue.attempt(key) > MOST_ATTEMPTS:
            log.error("series %s: put aside after %d attempts", key, MOST_ATTEMPTS)
            self.queue.fail(key)
            return
        try:
            self._answer(key)
        except StorageError:
            raise
        except ReslinkError as error:
            why = nameless(error.given, self.queue.folder)
            log.info("series %s: refused: %s", key, why)
            self.queue.answered(key, [], [why])

    def _answer(self, key: str) -> None:
        missing = self.queue.missing(key)
        if missing:
            raise _Late(missing)
        begun = time.monotonic()
        series = read_head(self.queue.folder / "working" / key)
        models = [model for model in self.models if model.takes(series)]
        if not models:
            raise _NoModel(series.modality)
        files = [
            (f"{number}-{result.kind}.dcm", result.content)
            for number, model in enumerate(models)
            for result in results(answer(model, series))
        ]
        said = [f"{series.modality}, {len(series.chosen)} of {len(series.headers)} slices classified", *series.notes]
        self.queue.answered(key, files, said)
        log.info("series %s: %s; %d results in %.1f s", key, "; ".join(said), len(files), time.monotonic() - begun)

    def deliver(self) -> bool:
        """Sends the results of every series whose turn it is; returns whether one was sent."""
        progress = False
        for key in filter(self._is_due, self.queue.to_send()):
            try:
                self._send(key)
            except SendError as error:
                self._later(key, "not sent", str(error))
            except Exception as error:  # noqa: BLE001  (a result that no one can read must not hold up the others)
                self._later(key, "not sent", type(error).__name__)
            else:
                self._in_time(key)
                progress = True
        return progress

    def _send(self, key: str) -> None:
        paths = self.queue.unsent(key)
        if paths:
            with self.sender.session() as session:
                for path in paths:
                    self._send_one(session, key, path)
            log.info("series %s: results sent", key)
        self.queue.finish(key)

    def _send_one(self, session: Session, key: str, path: Path) -> None:
        try:
            session.send(path)
        except SendError as error:
            if not error.lasting:
                raise
            log.error("series %s: the archive does not take the %s (%s); it is put aside", key, path.stem, error)
            self.queue.set_aside(path)
        else:
            self.queue.sent(path)

    def _is_due(self, key: str) -> bool:
        return time.monotonic() >= self._next.get(key, 0.0)

    def _in_time(self, key: str) -> None:
        self._failures.pop(key, None)
        self._next.pop(key, None)

    def _later(self, key: str, what: str, why: str) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        wait = min(LONGEST_WAIT, self.retry * 2 ** min(count - 1, 16))
        self._next[key] = time.monotonic() + wait
        log.warning("series %s: %s (%s); again in %.0f s", key, what, why, wait)

    def run(self, stop: threading.Event, pause: float = 0.2) -> list[threading.Thread]:
        """Starts to work and to deliver, each in a thread of its own, until ``stop`` is set.

        A thread that stops finishes the series it is at.
        """
        threads = [
            threading.Thread(target=self._loop, args=(step, stop, pause), name=step.__name__)
            for step in (self.work, self.deliver)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _loop(self, step: _Step, stop: threading.Event, pause: float) -> None:
        while not stop.is_set():
            try:
                idle = not step()
            except Exception as error:  # noqa: BLE001  (a full disk, say: the thread must live on)
                log.error("%s: %s", step.__name__, error.__class__.__name__)
                idle = True
            if idle:
                stop.wait(pause)


class _Step(Protocol):
    __name__: str

    def __call__(self) -> bool: ...


class _Late(ReslinkError):
    def __init__(self, missing: int) -> None:
        super().__init__(
            f"late slices of a series that was answered before, {missing} of its slices are gone",
            "A series is answered as a whole",
            "Send the whole series again",
        )


class _NoModel(ReslinkError):
    def __init__(self, modality: str) -> None:
        super().__init__(
            f"no bundle is for {modality}", "Each bundle is for CT, MR or both", "Start the node with another bundle"
        )
