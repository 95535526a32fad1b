"""DICOMweb client: finds head CT and MR series (QIDO-RS), fetches them (WADO-RS), stores results (STOW-RS; PS3.18)."""

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
from reslink.imaging.dicom.modality import OTHER_BODY_PART, header_exclusion_reason, is_other_body_part
from reslink.imaging.limits import silence_warnings
from reslink.serving.dicom.identifiers import EXTRA
from reslink.serving.dicom.pipeline import SUCCESS, SendError, Session, is_permanent_failure, is_stored
from reslink.serving.dicom.queue import EXCLUDED, Queue
from reslink.serving.dicom.series import series_key

log = logging.getLogger(__name__)

MODALITIES: Final = ("CT", "MR")
TIMEOUT: Final = (10.0, 120.0)
"""Timeouts in seconds: to connect, and to receive the next bytes."""

_PAGE: Final = 200
_STUDY, _SERIES, _INSTANCE, _COUNT, _BODY = "0020000D", "0020000E", "00080018", "00201209", "00180015"
_WATCHED: Final = "watched"


@dataclass(frozen=True)
class WatchSettings:
    """Settings of the search for new series.

    Attributes:
        days: Number of study days up to today; 0 for all. With 1, a study shortly before midnight is missed.
        period: Seconds between two searches.
        settle: Seconds for which the number of instances of a series must be constant before it is fetched.
    """

    days: int = 2
    period: float = 30.0
    settle: float = 60.0


class SearchError(ReslinkError):
    """The archive could not be searched.

    Args:
        reason: Type of the error. Its message may quote an address and is not used.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The archive could not be searched ({reason})",
            "--url must be a DICOMweb root that supports QIDO-RS",
            "Check that the archive runs, and check --url, --credentials and --tls-ca",
        )


@dataclass(frozen=True)
class _SeriesEntry:
    study_uid: str
    series_uid: str
    instances: int
    """0 if the archive did not state it."""
    body_part: str


def create_client(url: str, credentials: str | None = None, ca: Path | None = None) -> Any:
    """Returns a client for a DICOMweb root such as ``https://pacs.example/dicom-web``.

    Args:
        url: The DICOMweb root.
        credentials: ``user:password``, or ``Bearer TOKEN``.
        ca: Certificate authority of the archive, in PEM format.

    Raises:
        UsageError: If dicomweb-client is not installed, or the address is not an HTTP URL.
    """
    library: Any = optional_import("dicomweb_client", EXTRA)
    sessions: Any = optional_import("dicomweb_client.session_utils", EXTRA)
    logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL + 1)
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not a DICOMweb root", "It must begin with https:// or http://", "Correct --url")
    session = sessions.create_session()
    if ca is not None:
        session.verify = str(ca)
    if credentials and credentials.startswith("Bearer "):
        session.headers["Authorization"] = credentials.strip()
    elif credentials:
        user, _, password = credentials.strip().partition(":")
        session.auth = (user, password)
    return library.DICOMwebClient(url.rstrip("/"), session=session, timeout=TIMEOUT)


class DicomWebSender:
    """Stores results by STOW-RS.

    Args:
        client: From :func:`create_client`.
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
        except Exception as error:  # noqa: BLE001  (the client raises errors of requests and its own)
            reason = _reason_of(error)
        else:
            failed = reply.get("FailedSOPSequence")
            reason = int(failed[0].get("FailureReason") or 0xC000) if failed else SUCCESS
        if not is_stored(reason):
            raise SendError(f"failure reason 0x{reason:04X}", permanent=is_permanent_failure(reason))


def _reason_of(error: Exception) -> int:
    """Returns the Failure Reason in an error of the client: only a 409 states one in its body.

    Raises:
        SendError: If there is none.
    """
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    reason = _failure_reason(response.content) if response is not None and status == 409 else None
    if reason is None:
        raise SendError(f"HTTP {status}" if status else type(error).__name__, permanent=status in (400, 415)) from None
    return reason


def _failure_reason(body: bytes) -> int | None:
    """Returns the Failure Reason in a response body, in DICOM JSON or XML; None if there is none."""
    try:
        if body.lstrip().startswith(b"<"):
            root = ElementTree.fromstring(body)  # noqa: S314  (the client parses every reply this way)
            [item] = root.findall(".//{*}DicomAttribute[@tag='00081197']")
            return int("".join(item.itertext()))
        return int(Dataset.from_json(body.decode()).FailedSOPSequence[0].FailureReason)
    except Exception:  # noqa: BLE001  (an archive may send any content)
        return None


class Watcher:
    """Finds complete series in an archive and fetches them into a queue.

    Args:
        client: From :func:`create_client`.
        queue: An opened queue.
        settings: Settings of the search.
        modalities: Modalities to search for.

    Attributes:
        growing: Number of series in the last search that may still grow.
        failed: Number of series in the last search that could not be fetched completely; the next search tries again.
    """

    def __init__(
        self, client: Any, queue: Queue, settings: WatchSettings | None = None, modalities: Sequence[str] = MODALITIES
    ) -> None:
        self.queue, self.settings = queue, settings or WatchSettings()
        self._client, self._modalities = client, tuple(modalities)
        self.growing = self.failed = 0
        self._instance_counts: dict[str, tuple[int, float]] = {}
        self._folder = queue.folder / _WATCHED
        self._folder.mkdir(exist_ok=True)

    def poll(self, stop: threading.Event | None = None) -> int:
        """Searches once and fetches new, complete series; returns how many.

        Args:
            stop: After it is set, no further series is fetched.

        Raises:
            SearchError: If the archive cannot be searched.
        """
        count = self.growing = self.failed = 0
        for series in self._search():
            if stop is not None and stop.is_set():
                break
            key = series_key(series.series_uid)
            try:
                instances = series.instances or self._count(series)
                if instances not in (0, self._fetched_instances(key)) and self._settled(key, instances):
                    count += self._fetch(series, key, instances)
            except Exception as error:  # noqa: BLE001  (the client raises errors of requests, pydicom and its own)
                self.failed += 1
                log.warning("series %s: could not be fetched (%s)", key, type(error).__name__)
        return count

    def run(self, stop: threading.Event) -> None:
        """Searches periodically until ``stop`` is set, also while the archive cannot be reached."""
        while not stop.is_set():
            try:
                self.poll(stop)
                self.queue.expire()
            except SearchError as error:
                log.warning("%s", error.given)
            except OSError as error:
                log.error("the queue: %s", error.strerror)
            stop.wait(self.settings.period)

    def _settled(self, key: str, instances: int) -> bool:
        now = time.monotonic()
        before, since = self._instance_counts.get(key, (-1, now))
        if before != instances:
            since = now
            self._instance_counts[key] = instances, now
        settled = now - since >= self.settings.settle
        self.growing += not settled
        return settled

    def _search(self) -> list[_SeriesEntry]:
        """Returns all matching series before any is fetched, as result pages shift while an archive grows."""
        try:
            return [series for modality in self._modalities for series in self._search_modality(modality)]
        except Exception as error:  # noqa: BLE001  (the client raises errors of requests and its own)
            raise SearchError(type(error).__name__) from None

    def _search_modality(self, modality: str) -> Iterator[_SeriesEntry]:
        filters = {"Modality": modality}
        if self.settings.days:
            today = date.today()
            filters["StudyDate"] = f"{today - timedelta(days=self.settings.days - 1):%Y%m%d}-{today:%Y%m%d}"
        fields = ["NumberOfSeriesRelatedInstances", "BodyPartExamined"]
        for item in _search_pages(partial(self._client.search_for_series, fields=fields, search_filters=filters), _SERIES):
            study_uid, series_uid, count, body_part = (_value(item, tag) for tag in (_STUDY, _SERIES, _COUNT, _BODY))
            if study_uid:
                yield _SeriesEntry(str(study_uid), str(series_uid), int(count or 0), str(body_part or ""))

    def _count(self, series: _SeriesEntry) -> int:
        """Counts the instances of a series, for an archive that does not state it in search results."""
        search = partial(self._client.search_for_instances, series.study_uid, series.series_uid)
        return sum(1 for _ in _search_pages(search, _INSTANCE))

    def _fetched_instances(self, key: str) -> int:
        """Returns the number of instances that a series had when it was fetched; -1 if it was not."""
        try:
            return int((self._folder / key).read_text())
        except (FileNotFoundError, ValueError):
            return -1

    def _fetch(self, series: _SeriesEntry, key: str, instances: int) -> int:
        """Fetches a series and closes it; a series interrupted by a crash is fetched again."""
        received = kept = 0
        if is_other_body_part(series.body_part):
            log.info("series %s: discarded: %s", key, OTHER_BODY_PART)
            write_json(self._folder / key, instances)
            return 0
        for dataset in self._client.iter_series(series.study_uid, series.series_uid):
            received, kept = received + 1, kept + self._keep(dataset, key)
        if received < instances:
            self.failed += 1
            log.warning("series %s: %d of %d instances received; it will be fetched again", key, received, instances)
            return 0
        if kept == 0:
            log.info("series %s: discarded: none of its %d instances is a slice", key, instances)
        elif not self.queue.close(key):
            return 0  # its earlier results are not yet sent
        write_json(self._folder / key, instances)
        return int(kept > 0)

    def _keep(self, dataset: Dataset, key: str) -> bool:
        with silence_warnings():
            if header_exclusion_reason(dataset) is not None:
                self.queue.mark(key, str(dataset.get("SOPInstanceUID", "")), EXCLUDED)
                return False
            stream = io.BytesIO()
            dataset.save_as(stream, enforce_file_format=True)
        self.queue.add(key, str(dataset.SOPInstanceUID), stream.getvalue())
        return True


def _search_pages(search: Callable[..., list[dict[str, Any]]], tag: str) -> Iterator[dict[str, Any]]:
    """Yields search results page by page, each UID once, until a page has no new UID, as some archives ignore ``offset``."""
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
