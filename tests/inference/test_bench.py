"""Measurements respect their time limit, and the stages add up."""

import itertools
from types import SimpleNamespace

import pytest

from reslink.inference import bench
from reslink.inference.bench import MIN_ANSWERS, STAGES, measure_latency, measure_throughput


def test_latency_names_its_stages(classifier, pictures):
    timing = measure_latency(classifier, [path.read_bytes() for path in pictures], seconds=0.3)
    assert tuple(timing.stages) == STAGES
    assert timing.n >= MIN_ANSWERS
    assert 0 < timing.median_ms <= timing.p95_ms
    assert all(value > 0 for value in timing.stages.values())


def test_every_stage_is_measured_once_and_they_add_up(classifier, pictures, monkeypatch):
    seconds = itertools.count()  # a wall clock that advances by one second at each call
    busy = itertools.count(step=0.25)  # a processor clock that advances by a quarter: the other programs use the core
    clocks = SimpleNamespace(perf_counter=lambda: next(seconds), thread_time=lambda: next(busy))
    monkeypatch.setattr(bench, "time", clocks)
    timing = measure_latency(classifier, [pictures[0].read_bytes()], seconds=0)
    assert timing.stages == dict.fromkeys(STAGES, 1000.0)
    assert (timing.median_ms, timing.p95_ms) == (4000.0, 4000.0)
    assert timing.processor_share == 0.25


def test_waiting_for_other_threads_does_not_count_as_other_work(classifier, pictures, monkeypatch):
    times = itertools.cycle([(0.0, 0.0), (3.0, 1.0), (4.0, 2.0), (11.0, 2.0), (12.0, 3.0)])
    monkeypatch.setattr(bench, "_clocks", lambda: next(times))
    timing = measure_latency(classifier, [pictures[0].read_bytes()], seconds=0)
    assert (timing.stages["network"], timing.processor_share) == (7000.0, 1.0)


def test_a_minimum_number_of_predictions_is_measured(classifier, pictures):
    assert measure_latency(classifier, [pictures[0].read_bytes()], seconds=0).n == MIN_ANSWERS


def test_throughput_repeats_the_files_until_the_time_is_up(classifier, pictures):
    timing = measure_throughput(classifier, pictures[:2], batch_size=4, seconds=0.3)
    assert timing.n > 0
    assert timing.seconds >= 0.3
    assert timing.images_per_second == pytest.approx(timing.n / timing.seconds)
