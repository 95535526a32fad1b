"""A DICOMweb client: finds head CT and MR by QIDO-RS, fetches them by WADO-RS, stores results by STOW-RS (PS3.18)."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from pydicom import Dataset, dcmread

from reslink.errors import ReslinkError, UsageError
from reslink.files import optional_import, write_json
from reslink.imaging.dicom.modality import OTHER_PART, is_other_part, refusal_of
from reslink.imaging.limits import quiet
from reslink.serving.dicom.pipeline import SendError, Session, lasts
from reslink.serving.dicom.queue import Queue
from reslink.serving.dicom.results import EXTRA
from reslink.serving.dicom.series import key_of

log = logging.getLogger(__name__)

MODALITIES: Final = ("CT", "MR")
TIMEOUT: Final = (10.0, 120.0)
"""Seconds to connect, and to wait for the next bytes."""

_PAGE: Final = 200
_STUDY, _SERIES, _INSTANCE, _COUNT, _BODY = "0020000D", "0020000E", "00080018", "00201209", "00180015"
_WATCHED: Final = "watched"


@dataclass(frozen=True)
class WatchSettings:
    """What is looked for, and how often.

    Attributes:
        days: Only studies of so many days up to today; 0 for all. With 1, a study of the minutes before midnight is missed.
        period: Seconds between two searches.
        settle: Seconds for which the number of instances of a series must stay the same before it is fetched.
    """

    days: int = 2
    period: float = 30.0
    settle: float = 60.0


class SearchError(ReslinkError):
    """The archive could not be searched.

    Args:
        why: The kind of error; its message may quote an address.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"The archive could not be searched ({why})",
            "It is a DICOMweb root that answers QIDO-RS",
            "See that it runs, and that --url, --credentials and --tls-ca are right",
        )


@dataclass(frozen=True)
class _Found:
    study: str
    series: str
    instances: int
    """0 where the archive did not say."""
    body_part: str


def web_client(url: str, credentials: str | None = None, ca: Path | None = None) -> Any:
    """Returns a client of a DICOMweb root, such as ``https://pacs.example/dicom-web``.

    Args:
        url: The root.
        credentials: ``user:password``, or ``Bearer TOKEN``.
        ca: Certificates that sign the archive's, in PEM.

    Raises:
        UsageError: If dicomweb-client is not installed, or the address is not one of HTTP.
    """
    library: Any = optional_import("dicomweb_client", EXTRA)
    sessions: Any = optional_import("dicomweb_client.session_utils", EXTRA)
    logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL + 1)
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not a DICOMweb root", "It begins with https:// or http://", "Give --url as in the docs")
    session = sessions.create_session()
    if ca is not None:
        session.verify = str(ca)
    if credentials and credentials.startswith("Bearer "):
        session.headers["Authorization"] = credentials.strip()
    elif credentials:
        user, _, password = credentials.strip().partition(":")
        session.auth = (user, password)
    return library.DICOMwebClient(url.rstrip("/"), session=session, timeout=TIMEOUT)


class WebSender:
    """Stores results by STOW-RS.

    Args:
        client: From :func:`web_client`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    @contextmanager
    def session(self) -> Iterator[Session]:
        """See :class:`reslink.serving.dicom.pipeline.Sender`."""
        yield self

    def send(self, path: Path) -> None:
        """See :class:`reslink.serving.dicom.pipeline.Session`."""
        try:
            reply = self._client.store_instances([dcmread(path)])
        except Exception as error:  # noqa: BLE001  (the client raises those of requests, and its own)
            raise _refused(error) from None
        if reply.get("FailedSOPSequence"):
            raise _failed(int(reply.FailedSOPSequence[0].get("FailureReason") or 0xC000))


def _refused(error: Exception) -> SendError:
    """Returns what an error of the client means; a 409 lasts only where its body names a reason that lasts."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    reason = _reason(response.content) if response is not None and status == 409 else None
    if reason is not None:
        return _failed(reason)
    return SendError(f"HTTP {status}" if status else type(error).__name__, lasting=status in (400, 415))


def _failed(reason: int) -> SendError:
    return SendError(f"failure reason 0x{reason:04X}", lasting=lasts(reason))


def _reason(body: bytes) -> int | None:
    """Returns the Failure Reason that a body names, in DICOM JSON or XML; None where it names none."""
    try:
        if body.lstrip().startswith(b"<"):
            root = ElementTree.fromstring(body)  # noqa: S314  (the client reads every reply so)
            [item] = root.findall(".//{*}DicomAttribute[@tag='00081197']")
            return int("".join(item.itertext()))
        return int(Dataset.from_json(body.decode()).FailedSOPSequence[0].FailureReason)
    except Exception:  # noqa: BLE001  (an archive may answer with anything)
        return None


class Watcher:
    """Finds series that have come in whole, and fetches them into a queue.

    Args:
        client: From :func:`web_client`.
        queue: Opened.
        settings: What it looks for.
        modalities: Of the series that it looks for.

    Attributes:
        waiting: Series of the last search that may still grow.
        failed: Series of the last search that could not be fetched whole; the next search tries again.
    """

    def __init__(
        self, client: Any, queue: Queue, settings: WatchSettings | None = None, modalities: Sequence[str] = MODALITIES
    ) -> None:
        self.queue, self.settings = queue, settings or WatchSettings()
        self._client, self._modalities = client, tuple(modalities)
        self.waiting = self.failed = 0
        self._seen: dict[str, tuple[int, float]] = {}
        self._folder = queue.folder / _WATCHED
        self._folder.mkdir(exist_ok=True)

    def look(self, stop: threading.Event | None = None) -> int:
        """Searches once; fetches what is new and has not grown for long enough. Returns how many series were fetched.

        Args:
            stop: Once it is set, no further series is fetched.

        Raises:
            SearchError: If the archive cannot be searched.
        """
        count = self.waiting = self.failed = 0
        for found in self._search():
            if stop is not None and stop.is_set():
                break
            key = key_of(found.series)
            try:
                instances = found.instances or self._count(found)
                if instances not in (0, self._known(key)) and self._settled(key, instances):
                    count += self._fetch(found, key, instances)
            except Exception as error:  # noqa: BLE001  (the client raises those of requests, pydicom and its own)
                self.failed += 1
                log.warning("series %s: could not be fetched (%s)", key, type(error).__name__)
        return count

    def run(self, stop: threading.Event) -> None:
        """Searches again and again until ``stop`` is set; goes on when the archive cannot be reached."""
        while not stop.is_set():
            try:
                self.look(stop)
                self.queue.expire()
            except SearchError as error:
                log.warning("%s", error.given)
            except OSError as error:
                log.error("the queue: %s", error.strerror)
            stop.wait(self.settings.period)

    def _settled(self, key: str, instances: int) -> bool:
        now = time.monotonic()
        before, since = self._seen.get(key, (-1, now))
        if before != instances:
            since = now
            self._seen[key] = instances, now
        settled = now - since >= self.settings.settle
        self.waiting += not settled
        return settled

    def _search(self) -> list[_Found]:
        """Returns what may be heads; all of it before anything is fetched, as the pages shift while an archive grows."""
        try:
            return [found for modality in self._modalities for found in self._pages(modality)]
        except Exception as error:  # noqa: BLE001  (the client raises those of requests, and its own)
            raise SearchError(type(error).__name__) from None

    def _pages(self, modality: str) -> Iterator[_Found]:
        filters = {"Modality": modality}
        if self.settings.days:
            today = date.today()
            filters["StudyDate"] = f"{today - timedelta(days=self.settings.days - 1):%Y%m%d}-{today:%Y%m%d}"
        fields = ["NumberOfSeriesRelatedInstances", "BodyPartExamined"]
        for item in _each(partial(self._client.search_for_series, fields=fields, search_filters=filters), _SERIES):
            study, series, count, part = (_value(item, tag) for tag in (_STUDY, _SERIES, _COUNT, _BODY))
            if study:
                yield _Found(str(study), str(series), int(count or 0), str(part or ""))

    def _count(self, found: _Found) -> int:
        """Returns how many instances a series has, for an archive that does not say so in its answer to a search."""
        search = partial(self._client.search_for_instances, found.study, found.series)
        return sum(1 for _ in _each(search, _INSTANCE))

    def _known(self, key: str) -> int:
        """Returns how many instances a series had when it was fetched; -1 where it was not."""
        try:
            return int((self._folder / key).read_text())
        except (FileNotFoundError, ValueError):
            return -1

    def _fetch(self, found: _Found, key: str, instances: int) -> int:
        """Fetches a series whole and closes it; what a kill cuts off is fetched again."""
        came = kept = 0
        if is_other_part(found.body_part):
            log.info("series %s: let go: %s", key, OTHER_PART)
            write_json(self._folder / key, instances)
            return 0
        for dataset in self._client.iter_series(found.study, found.series):
            came, kept = came + 1, kept + self._keep(dataset, key)
        if came < instances:
            self.failed += 1
            log.warning("series %s: %d of %d instances came; it will be fetched again", key, came, instances)
            return 0
        if kept == 0:
            log.info("series %s: let go: none of its %d instances is a slice", key, instances)
        elif not self.queue.close(key):
            return 0  # its last answer is still on its way
        write_json(self._folder / key, instances)
        return int(kept > 0)

    def _keep(self, dataset: Dataset, key: str) -> bool:
        with quiet():
            if refusal_of(dataset) is not None:
                return False
            stream = io.BytesIO()
            dataset.save_as(stream, enforce_file_format=True)
        self.queue.add(key, str(dataset.SOPInstanceUID), stream.getvalue())
        return True


def _each(search: Callable[..., list[dict[str, Any]]], tag: str) -> Iterator[dict[str, Any]]:
    """Yields what a search finds, page by page, each UID once; ends at a page without a new one, as some ignore ``offset``."""
    seen: set[Any] = {None}
    for offset in range(0, 1 << 30, _PAGE):
        page = search(limit=_PAGE, offset=offset)
        new = {_value(item, tag): item for item in page if _value(item, tag) not in seen}
        yield from new.values()
        seen |= set(new)
        if not new or len(page) < _PAGE:
            break


def _value(item: dict[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]
