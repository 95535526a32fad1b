"""How much of a figure is leakage: the same network on a random split and on one that keeps patients and copies together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.errors import UsageError
from reslink.experiments.report import Row, Study, Table
from reslink.experiments.runner.compare_arms import FIGURES, Comparison, sample, seen_in_training, told
from reslink.experiments.runner.experiment import Setting
from reslink.experiments.runner.results import Cases, Record
from reslink.experiments.runner.run_spec import Trial
from reslink.experiments.runner.seed_statistics import Runs
from reslink.metrics.classification import NAMES

TITLES = {"clean": "clean split", "random": "random split"}


def leakage(setting: Setting) -> dict[str, Any]:
    """Trains on a random split and on a clean one of the same shares; the difference of the figures is the inflation.

    The clean split keeps patients and near copies together; the random one divides images. A split that the data
    states, and the recipe's ``data.group_by``, play no part.

    Args:
        setting: Data, recipe, seeds and folder.

    Returns:
        What ``study.json`` holds; it is written with a page to ``leakage`` in the folder of studies.

    Raises:
        UsageError: If no group holds two images, so that nothing can leak, or the data cannot be used.
        Interrupted: On Ctrl-C; the same call goes on.
    """
    _check(setting)
    found = Comparison.of(setting, [*_trials(setting)], TITLES)
    exposed = _exposed(found)
    study = Study(
        name="leakage",
        title="Leakage",
        question="How much better does the network look when images of one patient, and near copies, stand on both sides?",
        answer=_answer(found, exposed),
        facts=found.facts() | _facts(found),
        tables=[found.figures("Figures on the test part", _NOTE), *exposed.tables],
        charts=[found.chart("accuracy"), found.chart("auroc")],
        runs=found.run_rows(),
        failed=found.failures,
        not_done=exposed.reasons,
    )
    return study.write(setting.out / study.name)


_NOTE = (
    "The two splits have different test images; the difference is taken by seed, and its interval resamples patients or "
    "twin groups in both at once."
)


def _check(setting: Setting) -> None:
    if max(Counter(setting.data.groups).values()) < 2:
        raise UsageError(
            "No two images are of one patient or near copies of one another",
            "Leakage needs something that can stand on both sides; here a random split is a clean one",
            "Nothing is to be done: the figures of reslink train are not inflated in this way",
        )


def _trials(setting: Setting) -> list[Trial]:
    trials = []
    for seed in setting.seeds:
        recipe = setting.changed(seed)
        single = [case.name for case in setting.cache.manifest.cases]
        trials.append(Trial("clean", seed, recipe, setting.parts(recipe, setting.data.groups, given=False)))
        trials.append(Trial("random", seed, recipe, setting.parts(recipe, single, given=False)))
    return trials


class _Exposed:
    """Test images of the random split with and without one of their group among the training images."""

    def __init__(self, found: Comparison) -> None:
        self.tables: list[Table] = []
        self.reasons: list[str] = []
        self.sentences: list[str] = []
        records = found.of_arm("random")
        marked = [(record, seen_in_training(record, found.setting.data.groups)) for record in records]
        both = [(record, seen) for record, seen in marked if 0 < seen.sum() < len(seen)]
        if not both:
            self.reasons.append(
                "Figures of test images with and without a relative in training: in no run are there both kinds of images."
            )
            return
        runs = Runs(
            {(arm, r.trial.seed): sample(_subset(r.cases, seen == (arm == "seen"))) for r, seen in both for arm in _PARTS}
        )
        self.share = float(np.concatenate([seen for _, seen in marked]).mean())
        rows = [self._row(runs, arm, both) for arm in _PARTS]
        rows[0] |= {f"{name}_difference": runs.difference("seen", "unseen", name).as_dict() for name in ("accuracy", "auroc")}
        columns: dict[str, tuple[str, Any]] = {"title": ("", "text"), "images": ("test images, all seeds", "count")}
        columns |= {name: (NAMES[name], "estimate") for name in FIGURES}
        columns |= {f"{name}_difference": (f"{NAMES[name]}, difference", "test") for name in ("accuracy", "auroc")}
        note = "These images may also differ in how hard they are, so this difference is not leakage alone. p is not corrected."
        self.tables.append(Table("exposed", "Inside the random split", columns, rows, note))
        test = runs.difference("seen", "unseen", "accuracy")
        self.sentences.append(f"{self.share:.0%} of the test images of the random split have a relative in training.")
        self.sentences.append(told("In the random split, test images with a relative", "those without", "accuracy", test))

    @staticmethod
    def _row(runs: Runs, arm: str, both: list[tuple[Record, NDArray[np.bool_]]]) -> Row:
        images = sum(int((seen == (arm == "seen")).sum()) for _, seen in both)
        row: Row = {"title": _PARTS[arm], "images": images, "accuracy_difference": None, "auroc_difference": None}
        return row | {name: runs.mean(arm, name).estimate.as_dict() for name in FIGURES}


_PARTS = {"seen": "an image of the group was learned from", "unseen": "no image of the group was learned from"}


def _exposed(found: Comparison) -> _Exposed:
    return _Exposed(found)


def _subset(cases: Cases, chosen: NDArray[np.bool_]) -> Cases:
    at = np.flatnonzero(chosen)
    return Cases(
        [cases.names[i] for i in at], [cases.groups[i] for i in at], cases.truth[at], cases.scores[at], cases.calls[at]
    )


def _facts(found: Comparison) -> dict[str, Any]:
    sizes = Counter(Counter(found.setting.data.groups).values())
    several = sum(n * size for size, n in sizes.items() if size > 1)
    return {"Images that share a group with another": several}


def _answer(found: Comparison, exposed: _Exposed) -> list[str]:
    said = [
        told("Inflation, a random split", "a clean one", figure, found.differences[figure]["random"])
        for figure in ("accuracy", "auroc")
    ]
    return [*said, *exposed.sentences]
