"""From a complete series to the archive, with failures on the way."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager

import pacs
import pytest

from reslink.serving.dicom.classify import load_model
from reslink.serving.dicom.pipeline import MAX_ATTEMPTS, Pipeline, SendError
from reslink.serving.dicom.queue import REFUSED, Queue
from reslink.serving.dicom.series import series_key


class Archive:
    """Accepts results, or fails on demand."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.faults: list[SendError] = []

    @contextmanager
    def session(self):
        yield self

    def send(self, path):
        if self.faults:
            raise self.faults.pop(0)
        self.got.append(path.name)


@pytest.fixture
def archive():
    return Archive()


@pytest.fixture
def queue(tmp_path):
    with Queue(tmp_path / "queue").opened() as opened:
        yield opened


@pytest.fixture
def pipeline(queue, archive, bundle):
    return Pipeline(queue, [load_model(str(bundle))], archive, retry=0.05)


def put(queue: Queue, datasets) -> str:
    import io

    key = series_key(datasets[0].SeriesInstanceUID)
    for one in datasets:
        stream = io.BytesIO()
        one.save_as(stream, enforce_file_format=True)
        queue.add(key, one.SOPInstanceUID, stream.getvalue())
    assert queue.close(key)
    return key


def test_a_series_is_classified_and_sent(pipeline, queue, archive):
    key = put(queue, pacs.series(1))
    assert pipeline.process_next()
    assert pipeline.deliver_results()
    assert archive.got == ["0-map.dcm", "0-picture.dcm", "0-report.dcm"]
    assert queue.record(key)["summary"] == ["CT, 10 of 10 slices classified"]
    assert not pipeline.process_next()


def test_sent_results_are_not_sent_again_after_a_failure(pipeline, queue, archive, caplog):
    put(queue, pacs.series(1))
    pipeline.process_next()
    archive.faults = []
    send, calls = archive.send, []

    def breaks(path):
        calls.append(path.name)
        if len(calls) == 2:
            raise SendError("the association ended")
        send(path)

    archive.send = breaks
    assert not pipeline.deliver_results()
    assert "not sent (the association ended); next attempt in" in caplog.text
    assert not pipeline.deliver_results(), "the retry is not yet due"
    time.sleep(0.06)
    assert pipeline.deliver_results()
    assert sorted(archive.got) == ["0-map.dcm", "0-picture.dcm", "0-report.dcm"]


def test_permanently_refused_results_are_moved_to_failed(pipeline, queue, archive, caplog):
    caplog.set_level(logging.INFO)
    key = put(queue, pacs.series(1))
    pipeline.process_next()
    archive.faults = [SendError("status 0xA900", permanent=True)]
    assert pipeline.deliver_results()
    assert archive.got == ["0-picture.dcm", "0-report.dcm"]
    assert [path.name for path in (queue.folder / "failed" / key).iterdir()] == ["0-map.dcm"]
    assert "2 of 3 results sent" in caplog.text


def test_a_refused_series_has_no_results_but_a_record(pipeline, queue, archive, caplog):
    caplog.set_level(logging.INFO)
    key = put(queue, pacs.series(1, BodyPartExamined="CHEST"))
    assert pipeline.process_next()
    assert pipeline.deliver_results()
    assert archive.got == []
    assert "refused: its header states another part of the body" in caplog.text
    assert queue.record(key)["classified"] is False
    assert "CHEST" not in caplog.text


def test_a_bundle_for_the_other_modality_gives_no_result(queue, archive, bundle):
    pipeline = Pipeline(queue, [load_model(f"MR={bundle}")], archive)
    key = put(queue, pacs.series(1))
    pipeline.process_next()
    pipeline.deliver_results()
    assert archive.got == []
    assert queue.record(key)["summary"] == ["no bundle classifies CT"]


def test_two_bundles_give_two_sets_of_results(queue, archive, bundle):
    pipeline = Pipeline(queue, [load_model(str(bundle)), load_model(str(bundle), top=1)], archive)
    put(queue, pacs.series(1))
    pipeline.process_next()
    pipeline.deliver_results()
    assert len(archive.got) == 6


def test_a_bug_in_one_series_does_not_stop_the_others(pipeline, queue, archive, monkeypatch, caplog):
    from reslink.serving.dicom import pipeline as dicom_pipeline

    whole = dicom_pipeline.read_head_series

    def breaks(folder, **options):
        if folder.name == bad:
            raise ZeroDivisionError("SECRET")
        return whole(folder, **options)

    monkeypatch.setattr(dicom_pipeline, "read_head_series", breaks)
    bad = put(queue, pacs.series(1))
    put(queue, pacs.series(2))
    assert pipeline.process_next()
    assert pipeline.process_next()
    pipeline.deliver_results()
    assert queue.keys("failed") == [bad]
    assert len(archive.got) == 3
    assert "ZeroDivisionError" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("step", ["store", "read"])
def test_a_full_disk_delays_a_series(pipeline, queue, archive, monkeypatch, caplog, step):
    """A failure of the machine does not count as an attempt: the series is classified once there is space again."""
    from reslink.errors import StorageError
    from reslink.serving.dicom import pipeline as dicom_pipeline

    key, full = put(queue, pacs.series(1)), True

    def store_results(*words):
        if full:
            raise StorageError("a file could not be written: No space left on device", "Space is needed", "Free some")
        Queue.store_results(queue, *words)

    whole = dicom_pipeline.read_head_series

    def read(folder, **options):
        if full:
            raise OSError(5, "Input/output error")
        return whole(folder, **options)

    if step == "store":
        monkeypatch.setattr(queue, "store_results", store_results)
    else:
        monkeypatch.setattr(dicom_pipeline, "read_head_series", read)
    monkeypatch.setattr(dicom_pipeline, "MAX_RETRY_SECONDS", 0.0)
    for _ in range(MAX_ATTEMPTS + 2):
        assert not pipeline.process_next()
    assert queue.keys("working") == [key]
    assert "next attempt in" in caplog.text
    full = False
    assert pipeline.process_next()
    assert pipeline.deliver_results()
    assert len(archive.got) == 3


def test_an_unreadable_result_does_not_block_the_others(pipeline, queue, archive, caplog):
    first, second = put(queue, pacs.series(1)), put(queue, pacs.series(2))
    assert pipeline.process_next()
    assert pipeline.process_next()
    (queue.folder / "sending" / first / "record.json").write_text("{")
    pipeline.deliver_results()
    assert queue.record(second)["classified"]
    assert f"series {first}: not sent (JSONDecodeError); next attempt in" in caplog.text


def test_a_series_that_crashes_the_process_is_moved_to_failed(pipeline, queue, archive):
    key = put(queue, pacs.series(1))
    for _ in range(MAX_ATTEMPTS):
        queue.attempt(key)  # the process crashed after each attempt
    assert pipeline.process_next()
    assert queue.keys("failed") == [key]
    assert archive.got == []


def test_late_slices_alone_are_refused(tmp_path, archive, bundle, caplog):
    caplog.set_level(logging.INFO)
    with Queue(tmp_path / "q", keep=0.0).opened() as queue:
        pipeline = Pipeline(queue, [load_model(str(bundle))], archive)
        put(queue, pacs.series(1)[:9])
        pipeline.process_next()
        pipeline.deliver_results()
        time.sleep(0.02)
        queue.expire()
        put(queue, pacs.series(1)[9:])
        pipeline.process_next()
        pipeline.deliver_results()
    assert len(archive.got) == 3
    assert "late slices of a series that was received before, 9 of its earlier slices are gone" in caplog.text


@pytest.mark.parametrize(("policy", "results"), [("mark", 3), ("refuse", 0)])
def test_a_series_with_a_refused_slice_is_marked_or_refused(queue, archive, bundle, caplog, policy, results):
    caplog.set_level(logging.INFO)
    slices = pacs.series(1)
    queue.mark(series_key(slices[0].SeriesInstanceUID), slices[9].SOPInstanceUID, REFUSED)
    key = put(queue, slices[:9])
    pipeline = Pipeline(queue, [load_model(str(bundle))], archive, incomplete=policy)
    pipeline.process_next()
    pipeline.deliver_results()
    assert len(archive.got) == results
    assert "1 of its slices was refused and did not arrive later" in caplog.text
    assert "incomplete" in queue.record(key)["summary"][-1]
    put(queue, slices[9:])
    pipeline.process_next()
    pipeline.deliver_results()
    assert len(archive.got) == results + 3, "the slice joins the others, and the series is classified as a whole"
    assert not any("incomplete" in text for text in queue.record(key)["summary"])
