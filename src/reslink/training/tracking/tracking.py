"""The tracking of a run: what is recorded, and how a tracker that fails is handled."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from reslink.settings_text import flatten, read_json
from reslink.training.run_folder import TRACKING, Row
from reslink.training.tracking.trackers import Tracker, make_tracker

_log = logging.getLogger(__name__)

_GALLERY: Final = "gallery.json"

_NOT_IN_KEYS: Final = re.compile(r"[^\w.\- ]")
"""Characters that MLflow refuses in the name of a metric, and the slash, which separates the label."""


class Tracking(AbstractContextManager["Tracking"]):
    """The trackers of a run. None of them can fail the run: the first error is a warning, all are counted.

    Use it as a context manager, which closes the trackers.

    Args:
        names: Names of the trackers; without any, nothing is recorded.
        run: The run folder. Each tracker writes to its folder in ``tracking/``.

    Attributes:
        names: The names of the trackers.
        failed: Number of records that each failed tracker lost, by its name.

    Raises:
        UsageError: If there is no such tracker, or its package is not installed.
    """

    def __init__(self, names: Sequence[str] = (), run: Path = Path()) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._trackers = {name: make_tracker(name, run / TRACKING / name) for name in self.names}
        self._open: dict[str, Tracker] = {}
        self._step = 0
        self.failed: Counter[str] = Counter()

    def start(self, settings: Mapping[str, Any], rows: Sequence[Row], *, epoch: int | None) -> None:
        """Opens the records, continues those of an earlier attempt of the run, and adds the epochs that they lack.

        Args:
            settings: The recipe, with more hyper-parameters.
            rows: The rows of the finished epochs.
            epoch: The epoch that follows; None if the training is finished.
        """
        name, flat = f"{settings['model']['variant']}, seed {settings['seed']}", dict(flatten(settings))
        self._step = len(rows)
        for key, tracker in self._trackers.items():
            missing = [] if tracker.earlier() else rows
            if not self._call(key, tracker, "start", name, flat, epoch):
                continue
            self._open[key] = tracker
            for row in missing:
                self._call(key, tracker, "metrics", _numbers(row), row["epoch"])

    def epoch(self, row: Row) -> None:
        """Records the numbers of an epoch: losses, metrics, learning rate, statistics of the attention layers."""
        self._step = row["epoch"]
        self._call_all("metrics", _numbers(row), self._step)

    def finding(self, row: Row) -> None:
        """Records a finding of the diagnostics; file names in it, which may be those of patients, are left out."""
        from reslink.training.monitoring.diagnostics import FINDINGS_WITH_FILE_NAMES  # imports torch

        lines = [row["message"]] if row["code"] not in FINDINGS_WITH_FILE_NAMES else []
        text = " ".join(f"{line}." for line in [*lines, row["advice"]])
        self._call_all("text", f"findings/{row['code']}", text, max(self._step, row["epoch"]))

    def evaluation(self, evaluation: Mapping[str, Any], epoch: int) -> None:
        """Records the metrics of the test split with their 95 % intervals, as numbers and as a table.

        Of several labels at once, the metrics are the means over the labels, and those of each label follow.

        Args:
            evaluation: The content of ``evaluation.json``.
            epoch: The epoch of the exported weights, at which the numbers are recorded.
        """
        metrics = evaluation.get("metrics", {})
        if not metrics:  # there is no test split
            return
        self._call_all("metrics", _test_numbers({"n": evaluation.get("n")}, metrics), epoch)
        lines, by_label = _table(metrics), evaluation.get("by_label", {})
        for (label, entry), key in zip(by_label.items(), _label_keys(by_label), strict=True):
            of_label, counts = evaluation["per_class"][label], {name: entry[name] for name in ("n", "n_present", "n_unknown")}
            self._call_all("metrics", _test_numbers(counts, of_label, f"labels/{key}/"), epoch)
            lines += ["", f"The label {label}, present in {entry['n_present']} of {entry['n']} images:", "", *_table(of_label)]
        leakage = evaluation.get("leakage") or {}
        lines += ["", f"{leakage['message']}."] if leakage else []
        self._call_all("text", "evaluation/test", "\n".join(lines), self._step)

    def gallery(self, figures: Path) -> None:
        """Records the pictures of the attention gallery, and a table of their classes."""
        index = figures / _GALLERY
        cases = read_json(index) if index.is_file() and self._trackers else []
        lines = ["| picture | label | predicted | probability |", "|---|---|---|---|"]
        for case in cases:
            name = Path(case["file"]).stem
            lines.append(f"| {name} | {case['label']} | {case['predicted']} | {case['probability']:.3f} |")
            self._call_all("image", f"gallery/{name}", figures / case["file"], self._step)
        if cases:
            self._call_all("text", "gallery/cases", "\n".join(lines), self._step)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Closes the trackers, and warns of the records that were lost."""
        self._call_all("finish", completed=kind is None)
        for name, n in self.failed.items():
            _log.warning("The tracker %s lost %d of its records. The run itself is not affected.", name, n)

    def _call_all(self, method: str, *args: Any, **options: Any) -> None:
        for name in self._trackers:
            if name in self._open:
                self._call(name, self._open[name], method, *args, **options)
            elif self.failed[name] and method != "finish":  # it could not be started
                self.failed[name] += 1

    def _call(self, name: str, tracker: Tracker, method: str, *args: Any, **options: Any) -> bool:
        try:
            getattr(tracker, method)(*args, **options)
        except Exception as error:  # noqa: BLE001  (whatever a tracker raises, the run continues)
            if not self.failed[name]:
                reason = f"{type(error).__name__}: {error}".rstrip(".")
                _log.warning("The tracker %s failed in %s (%s). The run continues.", name, method, reason)
            self.failed[name] += 1
            return False
        return True


_ENDS: Final = {"": "estimate", "_ci_low": "ci_low", "_ci_high": "ci_high"}


def _label_keys(labels: Iterable[str]) -> list[str]:
    """Returns the part of the keys that names each label, with a number where two would be the same without case."""
    keys: list[str] = []
    for label in labels:
        base = key = _NOT_IN_KEYS.sub("_", label)
        count = 1
        while key.casefold() in {other.casefold() for other in keys}:  # MLflow writes a file for each key
            count += 1
            key = f"{base}-{count}"
        keys.append(key)
    return keys


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the finite numbers of a row, but not the epoch, which is the step."""
    finite = {key: value for key, value in row.items() if isinstance(value, int | float) and math.isfinite(value)}
    return {key: value for key, value in finite.items() if key != "epoch"}


def _test_numbers(counts: Row, metrics: Mapping[str, Mapping[str, Any]], start: str = "") -> dict[str, float]:
    """Returns counts, metrics and the limits of their intervals by name, such as ``test_auroc_ci_low``, after ``start``."""
    values = {f"{name}{limit}": metric[key] for name, metric in metrics.items() for limit, key in _ENDS.items()}
    return _numbers({f"{start}test_{name}": value for name, value in (counts | values).items()})


def _table(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    header = ["| metric | estimate | 95 % interval | n | method |", "|---|---|---|---|---|"]
    return [*header, *map(_table_row, metrics.items())]


def _table_row(item: tuple[str, Mapping[str, Any]]) -> str:
    name, metric = item
    low, high = metric["ci_low"], metric["ci_high"]
    interval = "–" if low is None else f"{low:.3f} to {high:.3f}"
    estimate = "–" if metric["estimate"] is None else f"{metric['estimate']:.3f}"
    return f"| {name} | {estimate} | {interval} | {metric['n']} | {metric['method']} |"
