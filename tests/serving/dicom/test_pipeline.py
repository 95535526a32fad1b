"""The way from a finished series to the archive, when things go wrong on it."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager

import pacs
import pytest

from reslink.serving.dicom.classify import load_model
from reslink.serving.dicom.pipeline import MOST_ATTEMPTS, Pipeline, SendError
from reslink.serving.dicom.queue import Queue
from reslink.serving.dicom.series import key_of


class Archive:
    """Takes results, or fails as it is told to."""

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

    key = key_of(datasets[0].SeriesInstanceUID)
    for one in datasets:
        stream = io.BytesIO()
        one.save_as(stream, enforce_file_format=True)
        queue.add(key, one.SOPInstanceUID, stream.getvalue())
    assert queue.close(key)
    return key


def test_a_series_is_answered_and_sent(pipeline, queue, archive):
    key = put(queue, pacs.series(1))
    assert pipeline.work()
    assert pipeline.deliver()
    assert archive.got == ["0-map.dcm", "0-picture.dcm", "0-report.dcm"]
    assert queue.record(key)["said"] == ["CT, 10 of 10 slices classified"]
    assert not pipeline.work()


def test_what_was_sent_is_not_sent_again_after_a_fault(pipeline, queue, archive, caplog):
    put(queue, pacs.series(1))
    pipeline.work()
    archive.faults = []
    send, calls = archive.send, []

    def breaks(path):
        calls.append(path.name)
        if len(calls) == 2:
            raise SendError("the association ended")
        send(path)

    archive.send = breaks
    assert not pipeline.deliver()
    assert "not sent (the association ended); again in" in caplog.text
    assert not pipeline.deliver(), "it is too early"
    time.sleep(0.06)
    assert pipeline.deliver()
    assert sorted(archive.got) == ["0-map.dcm", "0-picture.dcm", "0-report.dcm"]


def test_what_is_refused_for_good_is_put_aside(pipeline, queue, archive):
    key = put(queue, pacs.series(1))
    pipeline.work()
    archive.faults = [SendError("status 0xA900", lasting=True)]
    assert pipeline.deliver()
    assert archive.got == ["0-picture.dcm", "0-report.dcm"]
    assert [path.name for path in (queue.folder / "failed" / key).iterdir()] == ["0-map.dcm"]


def test_a_refused_series_gives_no_result_and_is_remembered(pipeline, queue, archive, caplog):
    caplog.set_level(logging.INFO)
    key = put(queue, pacs.series(1, BodyPartExamined="CHEST"))
    assert pipeline.work()
    assert pipeline.deliver()
    assert archive.got == []
    assert "refused: its header says that it is of another part of the body" in caplog.text
    assert queue.record(key)["answered"] is False
    assert "CHEST" not in caplog.text


def test_a_bundle_for_the_other_modality_answers_nothing(queue, archive, bundle):
    pipeline = Pipeline(queue, [load_model(f"MR={bundle}")], archive)
    key = put(queue, pacs.series(1))
    pipeline.work()
    pipeline.deliver()
    assert archive.got == []
    assert queue.record(key)["said"] == ["no bundle is for CT"]


def test_two_bundles_give_two_answers(queue, archive, bundle):
    pipeline = Pipeline(queue, [load_model(str(bundle)), load_model(str(bundle), top=1)], archive)
    put(queue, pacs.series(1))
    pipeline.work()
    pipeline.deliver()
    assert len(archive.got) == 6


def test_a_bug_in_one_series_does_not_stop_the_others(pipeline, queue, archive, monkeypatch, caplog):
    from reslink.serving.dicom import pipeline as dicom_pipeline

    whole = dicom_pipeline.read_head

    def breaks(folder):
        if folder.name == bad:
            raise ZeroDivisionError("SECRET")
        return whole(folder)

    monkeypatch.setattr(dicom_pipeline, "read_head", breaks)
    bad = put(queue, pacs.series(1))
    put(queue, pacs.series(2))
    assert pipeline.work()
    assert pipeline.work()
    pipeline.deliver()
    assert queue.names("failed") == [bad]
    assert len(archive.got) == 3
    assert "ZeroDivisionError" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("step", ["answered", "read"])
def test_a_full_disk_refuses_no_series(pipeline, queue, archive, monkeypatch, caplog, step):
    """What the machine lacks is no fault of the series: it is answered once there is room again, however often that fails."""
    from reslink.errors import StorageError
    from reslink.serving.dicom import pipeline as dicom_pipeline

    key, full = put(queue, pacs.series(1)), True

    def answered(*words):
        if full:
            raise StorageError("a file could not be written: No space left on device", "Space is needed", "Free some")
        Queue.answered(queue, *words)

    whole = dicom_pipeline.read_head

    def read(folder):
        if full:
            raise OSError(5, "Input/output error")
        return whole(folder)

    if step == "answered":
        monkeypatch.setattr(queue, "answered", answered)
    else:
        monkeypatch.setattr(dicom_pipeline, "read_head", read)
    monkeypatch.setattr(dicom_pipeline, "LONGEST_WAIT", 0.0)
    for _ in range(MOST_ATTEMPTS + 2):
        assert not pipeline.work()
    assert queue.names("working") == [key]
    assert "again in" in caplog.text
    full = False
    assert pipeline.work()
    assert pipeline.deliver()
    assert len(archive.got) == 3


def test_a_result_that_cannot_be_read_does_not_hold_up_the_others(pipeline, queue, archive, caplog):
    first, second = put(queue, pacs.series(1)), put(queue, pacs.series(2))
    assert pipeline.work()
    assert pipeline.work()
    (queue.folder / "sending" / first / "record.json").write_text("{")
    pipeline.deliver()
    assert queue.record(second)["answered"]
    assert f"series {first}: not sent (JSONDecodeError); again in" in caplog.text


def test_a_series_that_kills_the_process_is_put_aside_in_the_end(pipeline, queue, archive):
    key = put(queue, pacs.series(1))
    for _ in range(MOST_ATTEMPTS):
        queue.attempt(key)  # the process died after that
    assert pipeline.work()
    assert queue.names("failed") == [key]
    assert archive.got == []


def test_late_slices_alone_are_refused(tmp_path, archive, bundle, caplog):
    caplog.set_level(logging.INFO)
    with Queue(tmp_path / "q", keep=0.0).opened() as queue:
        pipeline = Pipeline(queue, [load_model(str(bundle))], archive)
        put(queue, pacs.series(1)[:9])
        pipeline.work()
        pipeline.deliver()
        time.sleep(0.02)
        queue.expire()
        put(queue, pacs.series(1)[9:])
        pipeline.work()
        pipeline.deliver()
    assert len(archive.got) == 3
    assert "late slices of a series that was answered before, 9 of its slices are gone" in caplog.text
