"""The DICOMweb client with a fake archive that fails on demand."""

from __future__ import annotations

import json
import logging
import threading
from datetime import date, timedelta

import pacs
import pytest
from pydicom import Dataset, Sequence, dcmread
from requests import HTTPError, Response
from typer.testing import CliRunner

from reslink.serving.dicom import dicomweb
from reslink.serving.dicom.dicomweb import DicomWebSender, Watcher, WatchSettings
from reslink.serving.dicom.pipeline import SendError
from reslink.serving.dicom.queue import EXCLUDED, Queue
from reslink.serving.dicom.series import missing_by_headers, series_key


class Archive:
    """A fake DICOMweb client."""

    def __init__(self, *series: list[Dataset]) -> None:
        self.series = {str(one[0].SeriesInstanceUID): list(one) for one in series}
        self.counts: dict[str, int] = {}
        self.broken: set[str] = set()
        self.down = False
        self.filters: list[dict[str, str]] = []
        self.fetched: list[str] = []
        self.stored: list[str] = []
        self.reply = Dataset()
        self.pages = True

    def search_for_series(self, *, search_filters, limit, offset, **_):
        if self.down:
            raise ConnectionError("https://pacs.example/series?SECRET")
        self.filters.append(search_filters)
        assert offset < 1000, "endless search"
        entries = [self._search_result(uid) for uid, one in self.series.items() if one[0].Modality in search_filters.values()]
        return entries[offset : offset + limit] if self.pages else entries

    def search_for_instances(self, _, series, *, limit, offset):
        return [{"00080018": {"Value": [str(one.SOPInstanceUID)]}} for one in self.series[series]][offset : offset + limit]

    def _search_result(self, uid: str):
        one = self.series[uid]
        values = {
            "0020000D": str(one[0].StudyInstanceUID),
            "0020000E": uid,
            "00201209": self.counts.get(uid, len(one)),
            "00180015": one[0].get("BodyPartExamined"),
        }
        return {tag: {"Value": [value]} if value else {} for tag, value in values.items()}

    def iter_series(self, _, series):
        self.fetched.append(series)
        if series in self.broken:
            raise ValueError("SECRET")
        yield from self.series[series]

    def store_instances(self, datasets):
        self.stored += [str(one.SOPInstanceUID) for one in datasets]
        return self.reply


@pytest.fixture
def queue(tmp_path):
    with Queue(tmp_path / "queue").opened() as opened:
        yield opened


def watcher(archive: Archive, queue: Queue, **settings: float) -> Watcher:
    return Watcher(archive, queue, WatchSettings(**{"settle": 0.0, **settings}))


def key(number: int) -> str:
    return series_key(str(pacs.series(number)[0].SeriesInstanceUID))


def test_a_series_is_fetched_once(queue):
    archive = Archive(pacs.series(1))
    for expected in (1, 0):
        assert watcher(archive, queue).poll() == expected
    assert queue.keys("working") == [key(1)]
    assert len(archive.fetched) == 1


def test_localizers_that_are_not_stored_count_as_arrived(queue):
    slices = pacs.series(1, size=64, NumberOfSeriesRelatedInstances=9)
    slices[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    del slices[1:3]
    slices.append(pacs.series(1, slices=11, size=64, Manufacturer="reslink")[10])
    assert watcher(Archive(slices), queue).poll() == 1
    assert queue.count_marks("working", key(1), EXCLUDED) == 2
    assert missing_by_headers(queue.folder / "working" / key(1), not_stored=2) == []
    assert missing_by_headers(queue.folder / "working" / key(1)) == ["its headers state 9 instances, 7 arrived"]


def test_studies_of_yesterday_are_searched_too(queue):
    """A study of 23:59 is complete only after midnight."""
    archive = Archive()
    watcher(archive, queue).poll()
    yesterday = date.today() - timedelta(days=1)
    assert all(one["StudyDate"][:8] <= f"{yesterday:%Y%m%d}" for one in archive.filters)
    assert len(archive.filters) == 2


def test_a_series_that_cannot_be_fetched_does_not_block_the_others(queue, caplog):
    archive = Archive(pacs.series(1), pacs.series(2))
    archive.broken = {str(pacs.series(1)[0].SeriesInstanceUID)}
    assert watcher(archive, queue).poll() == 1
    assert queue.keys("working") == [key(2)]
    assert f"series {key(1)}: could not be fetched (ValueError)" in caplog.text
    assert "SECRET" not in caplog.text
    archive.broken = set()
    assert watcher(archive, queue).poll() == 1


def test_a_partly_received_series_is_not_classified(queue, caplog):
    archive = Archive(pacs.series(1))
    archive.counts = {str(pacs.series(1)[0].SeriesInstanceUID): 12}
    assert watcher(archive, queue).poll() == 0
    assert queue.keys("working") == []
    assert f"series {key(1)}: 10 of 12 instances received" in caplog.text
    archive.counts = {}
    assert watcher(archive, queue).poll() == 1


def test_another_body_part_is_not_fetched(queue, caplog):
    caplog.set_level(logging.INFO)
    archive = Archive(pacs.series(1, BodyPartExamined="CHEST"), pacs.series(2, BodyPartExamined=""))
    for _ in range(2):
        watcher(archive, queue).poll()
    assert archive.fetched == [str(pacs.series(2)[0].SeriesInstanceUID)]
    assert caplog.text.count(f"series {key(1)}: discarded: its header states another part of the body") == 1


def test_it_stops_between_two_series(queue):
    stop = threading.Event()
    archive = Archive(pacs.series(1), pacs.series(2))
    fetch = archive.iter_series
    archive.iter_series = lambda *words: (stop.set(), fetch(*words))[1]
    assert watcher(archive, queue).poll(stop) == 1


@pytest.mark.parametrize("pages", [True, False])
def test_every_result_page_is_requested_once(queue, monkeypatch, pages):
    """Some archives return all series whatever the offset."""
    monkeypatch.setattr(dicomweb, "_PAGE", 2)
    archive = Archive(*(pacs.series(number, BodyPartExamined="CHEST") for number in range(4)), pacs.series(9))
    archive.pages = pages
    assert watcher(archive, queue).poll() == 1
    assert queue.keys("working") == [key(9)]


def test_instances_are_counted_if_the_archive_does_not_state_their_number(queue):
    archive = Archive(pacs.series(1), pacs.series(2))
    archive.counts = {str(pacs.series(number)[0].SeriesInstanceUID): 0 for number in (1, 2)}
    client = watcher(archive, queue)
    assert [client.poll() for _ in range(2)] == [2, 0]
    archive.series[str(pacs.series(2)[0].SeriesInstanceUID)].append(pacs.series(3)[0])
    queue.store_results(key(2), [], [])
    queue.finish(key(2))
    assert client.poll() == 1


REASONS = [(0xA700, False), (0x0110, False), (0x0124, False), (0xA900, True), (0xC000, True), (0x0122, True)]


def test_a_result_that_the_archive_has_is_sent(tmp_path):
    archive, item, response = Archive(), Dataset(), Response()
    item.FailureReason = 0x0111
    archive.reply.FailedSOPSequence = Sequence([item])
    path = next(pacs.write(tmp_path, pacs.series(1)[:1]).iterdir())
    DicomWebSender(archive).send(path)
    response.status_code, response._content = 409, JSON.format(0x0111).encode()

    def refuse(_):
        raise HTTPError("https://pacs.example/SECRET", response=response)

    archive.store_instances = refuse
    DicomWebSender(archive).send(path)


@pytest.mark.parametrize(("reason", "permanent"), REASONS)
def test_only_permanent_failures_are_permanent(tmp_path, reason, permanent):
    archive, item = Archive(), Dataset()
    item.FailureReason = reason
    archive.reply.FailedSOPSequence = Sequence([item])
    path = next(pacs.write(tmp_path, pacs.series(1)[:1]).iterdir())
    with pytest.raises(SendError, match=f"failure reason 0x{reason:04X}") as caught:
        DicomWebSender(archive).send(path)
    assert caught.value.permanent is permanent


XML = (
    '<?xml version="1.0" encoding="utf-8"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
    '<DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">'
    '<DicomAttribute tag="00081197" vr="US" keyword="FailureReason"><Value number="1"> {} </Value></DicomAttribute>'
    "</Item></DicomAttribute></NativeDicomModel>"
)
JSON = '{{"00081198": {{"vr": "SQ", "Value": [{{"00081197": {{"vr": "US", "Value": [{}]}}}}]}}}}'


@pytest.mark.parametrize(
    ("status", "body", "message", "permanent"),
    [
        (409, JSON.format(0xA700), "failure reason 0xA700", False),
        (409, XML.format(0xA700), "failure reason 0xA700", False),
        (409, JSON.format(0xA900), "failure reason 0xA900", True),
        (409, XML.format(0xC122), "failure reason 0xC122", True),
        (409, "", "HTTP 409", False),
        (409, "<html>SECRET", "HTTP 409", False),
        (409, "{}", "HTTP 409", False),
        (400, JSON.format(0xA700), "HTTP 400", True),
        (415, "", "HTTP 415", True),
        (503, "", "HTTP 503", False),
    ],
)
def test_a_conflict_is_permanent_if_its_reason_is(tmp_path, status, body, message, permanent):
    archive, response = Archive(), Response()
    response.status_code, response._content = status, body.encode()

    def refuse(_):
        raise HTTPError("https://pacs.example/SECRET", response=response)

    archive.store_instances = refuse
    path = next(pacs.write(tmp_path, pacs.series(1)[:1]).iterdir())
    with pytest.raises(SendError) as caught:
        DicomWebSender(archive).send(path)
    assert (str(caught.value), caught.value.permanent) == (message, permanent)


@pytest.fixture
def watch(bundle, tmp_path, monkeypatch):
    """Returns a function that runs ``reslink dicom watch --once`` on an archive."""
    from reslink.cli.main import app

    def run(archive: Archive, *words: str):
        monkeypatch.setattr(dicomweb, "create_client", lambda *_: archive)
        return CliRunner().invoke(
            app, ["dicom", "watch", str(bundle), "--url", "http://x", "--queue", str(tmp_path / "queue"), "--once", *words]
        )

    return run


def test_once_waits_until_series_have_settled(watch):
    archive = Archive(pacs.series(1))
    done = watch(archive, "--settle", "0.3", "--period", "0.1")
    assert done.exit_code == 0, done.stderr
    assert len(archive.stored) == 3


def test_once_reports_that_the_archive_cannot_be_searched(watch):
    archive = Archive()
    archive.down = True
    done = watch(archive)
    assert done.exit_code == 1
    assert "The archive could not be searched (ConnectionError)" in done.stderr
    assert "SECRET" not in done.stderr


def test_once_reports_unsent_results(watch, tmp_path):
    archive = Archive(pacs.series(1))

    def full(_):
        raise ConnectionError

    archive.store_instances = full
    done = watch(archive, "--settle", "0", "--retry", "100")
    assert done.exit_code == 1
    assert "1 series could not be classified or sent" in done.stderr
    [record] = (tmp_path / "queue" / "sending").glob("*/record.json")
    assert json.loads(record.read_text())["results"] == 3
    assert dcmread(next(record.parent.glob("*.dcm"))).Manufacturer == "reslink"
