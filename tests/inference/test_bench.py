"""Measurements end when their time is up, and their parts make the whole."""

import itertools
from types import SimpleNamespace

import pytest

from reslink.inference import bench
from reslink.inference.bench import LEAST, STAGES, latency, throughput


def test_latency_names_its_stages(classifier, pictures):
    found = latency(classifier, [path.read_bytes() for path in pictures], seconds=0.3)
    assert tuple(found.stages) == STAGES
    assert found.n >= LEAST
    assert 0 < found.median_ms <= found.p95_ms
    assert all(value > 0 for value in found.stages.values())


def test_every_stage_is_taken_once_and_they_make_the_whole(classifier, pictures, monkeypatch):
    seconds = itertools.count()  # a clock that goes on by one second whenever it is looked at
    busy = itertools.count(step=0.25)  # and one that goes on by a quarter: the rest went to other work
    clocks = SimpleNamespace(perf_counter=lambda: next(seconds), thread_time=lambda: next(busy))
    monkeypatch.setattr(bench, "time", clocks)
    found = latency(classifier, [pictures[0].read_bytes()], seconds=0)
    assert found.stages == dict.fromkeys(STAGES, 1000.0)
    assert (found.median_ms, found.p95_ms) == (4000.0, 4000.0)
    assert found.processor_share == 0.25


def test_waiting_for_helpers_is_no_other_work(classifier, pictures, monkeypatch):
    times = itertools.cycle([(0.0, 0.0), (3.0, 1.0), (4.0, 2.0), (11.0, 2.0), (12.0, 3.0)])
    monkeypatch.setattr(bench, "_clocks", lambda: next(times))
    found = latency(classifier, [pictures[0].read_bytes()], seconds=0)
    assert (found.stages["network"], found.processor_share) == (7000.0, 1.0)


def test_no_time_still_gives_a_few_answers(classifier, pictures):
    assert latency(classifier, [pictures[0].read_bytes()], seconds=0).n == LEAST


def test_throughput_goes_round_until_the_time_is_up(classifier, pictures):
    found = throughput(classifier, pictures[:2], batch_size=4, seconds=0.3)
    assert found.n > 0
    assert found.seconds >= 0.3
    assert found.images_per_second == pytest.approx(found.n / found.seconds)
