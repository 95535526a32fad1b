"""What all studies of several arms have in common: train them, compare them with the first, say it in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.experiments.report import Row, Table
from reslink.experiments.runner.experiment import Setting
from reslink.experiments.runner.results import Cases, Record, read_all
from reslink.experiments.runner.run_spec import Trial
from reslink.experiments.runner.seed_statistics import Floats, OverSeeds, Runs, Sample, corrected
from reslink.metrics.classification import NAMES
from reslink.metrics.intervals import Estimate
from reslink.reports.run.sections import flattened, signed
from reslink.training.recipe.recipe import Recipe

FIGURES = ("accuracy", "auroc", "sensitivity", "specificity")
COMPARED = ("accuracy", "auroc")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Arms that were trained with the same seeds.

    Attributes:
        setting: Where they stand.
        records: All runs.
        titles: Arm to what a table calls it; the first is what the others are compared with.
    """

    setting: Setting
    records: Sequence[Record]
    titles: Mapping[str, str]

    @classmethod
    def of(cls, setting: Setting, trials: Sequence[Trial], titles: Mapping[str, str]) -> Comparison:
        """Trains what is not trained yet, and reads all that came of it."""
        failed = setting.do(trials)
        return cls(setting, read_all(trials, setting.data, setting.runs, failed), titles)

    @property
    def good(self) -> list[Record]:
        """The runs with a result."""
        return [record for record in self.records if record.failure is None]

    def of_arm(self, arm: str) -> list[Record]:
        """Returns the runs of an arm that have a result."""
        return [record for record in self.good if record.trial.arm == arm]

    @property
    def failures(self) -> list[dict[str, str]]:
        """Name and reason of each run without a result."""
        return [{"run": record.trial.name, "reason": record.failure} for record in self.records if record.failure]

    @cached_property
    def runs(self) -> Runs:
        """The runs, ready for intervals."""
        return Runs({(r.trial.arm, r.trial.seed): sample(r.cases) for r in self.good})

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.titles))

    @cached_property
    def differences(self) -> dict[str, dict[str, OverSeeds]]:
        """For accuracy and AUROC, each other arm less the reference, Holm-corrected over the arms."""
        others = [arm for arm in self.titles if arm != self.reference]
        return {
            figure: dict(
                zip(others, corrected([self.runs.difference(arm, self.reference, figure) for arm in others]), strict=True)
            )
            for figure in COMPARED
        }

    def figures(self, title: str, note: str = "") -> Table:
        """Returns the table of figures, each with the difference to the reference."""
        columns: dict[str, tuple[str, Any]] = {"title": ("", "text"), "runs": ("runs", "count")}
        columns |= {figure: (NAMES[figure], "estimate") for figure in FIGURES}
        columns |= {f"{figure}_difference": (f"{NAMES[figure]}, difference", "test") for figure in COMPARED}
        reference = self.titles[self.reference]
        said = (
            f"Difference: to «{reference}» on the same seeds and test cases. Intervals of 95 % hold for other seeds and "
            "other patients; p is corrected by Holm's method over the rows."
        )
        rows, notes = [self._row(arm) for arm in self.titles], [*self.warnings, said, note]
        return Table("figures", title, columns, rows, " ".join(notes).strip())

    def _row(self, arm: str) -> Row:
        row: Row = {"arm": arm, "title": self.titles[arm], "runs": len(self.of_arm(arm))}
        row |= {figure: self.runs.mean(arm, figure).estimate.as_dict() for figure in FIGURES}
        for figure in COMPARED:
            found = self.differences[figure].get(arm)
            row[f"{figure}_difference"] = None if found is None else found.as_dict()
        return row

    def run_rows(self) -> list[Row]:
        """Returns a line for each run: arm, seed, folder, figures of its test part."""
        rows = []
        for record in self.records:
            trial = record.trial
            row: Row = {"arm": trial.arm, "seed": trial.seed, "run": record.folder.name, "failure": record.failure}
            points = self.runs.points.get((trial.arm, trial.seed), {})
            row |= {figure: finite(points.get(figure)) for figure in FIGURES}
            if record.failure is None:
                row |= {"epochs": len(record.epochs), "best_epoch": record.best_epoch, "test_cases": len(record.cases.names)}
            rows.append(row)
        return rows

    def chart(self, figure: str = "accuracy") -> dict[str, Any]:
        """Returns the chart of the differences in a figure."""
        rows = [
            {"label": self.titles[arm], **_interval(test), "points": self._by_seed(arm, figure)}
            for arm, test in self.differences[figure].items()
        ]
        return {
            "kind": "intervals",
            "name": f"{figure}-differences",
            "title": f"{capital(NAMES[figure])}: difference to «{self.titles[self.reference]}»",
            "axis": "difference",
            "reference": 0.0,
            "rows": rows,
        }

    def _by_seed(self, arm: str, figure: str) -> list[float]:
        points, other = self.runs.points, self.reference
        found = [points[arm, seed][figure] - points[other, seed][figure] for seed in self.runs.seeds(arm, other)]
        return [value for value in found if finite(value) is not None]

    def sentence(self, arm: str, figure: str = "accuracy") -> str:
        """Returns what a difference says, in words."""
        return told(self.titles[arm], self.titles[self.reference], figure, self.differences[figure][arm])

    @cached_property
    def warnings(self) -> list[str]:
        """Says that test images are linked to training images, where that was allowed."""
        linked = [int(seen_in_training(record, self.setting.data.groups).sum()) for record in self.good]
        if not any(linked):
            return []
        return [
            f"Up to {max(linked)} test images of a run have a patient or a near copy among its training or validation images, "
            "as was allowed: every figure may be too good."
        ]

    def summary(self, figure: str) -> list[str]:
        """Returns for which arms a difference in a figure was shown, and for which not, in sentences."""
        name, other = capital(NAMES[figure]), self.titles[self.reference]
        tests = self.differences[figure]
        shown = [arm for arm, test in tests.items() if is_shown(test)]
        rest = [self.titles[arm] for arm in tests if arm not in shown]
        said = [
            f"{name}: a difference to «{other}» was shown for "
            + "; ".join(f"{self.titles[arm]}, {_with_interval(tests[arm].estimate)}" for arm in shown)
            + "."
        ]
        none = f"{name}: no difference to «{other}» was shown for {'; '.join(rest)}."
        return [*(said if shown else []), *([none] if rest else [])]

    def facts(self) -> dict[str, Any]:
        """Returns what to know before reading a figure."""
        setting, read = self.setting, self.setting.cache.manifest
        groups, seeds = setting.data.groups, ", ".join(map(str, setting.seeds))
        tests = sorted({len(record.cases.names) for record in self.good})
        return {
            "Data": setting.manifest.root.name,
            "Classes": ", ".join(read.labels.names),
            "Images": len(read),
            "Patients or twin groups": len(set(groups)),
            "Test images of a run": " to ".join(map(str, dict.fromkeys([tests[0], tests[-1]]))) if tests else "none",
            "Runs": f"{len(self.good)} of {len(self.records)}",
            "Seeds": f"{seeds} (each with {self._split()})",
            "Network": setting.recipe.model.variant,
            "Epochs": setting.recipe.trainer.epochs,
            "Other settings than the default": self._settings(),
            "Data SHA-256": setting.data.digest[:16],
        }

    def _settings(self) -> str:
        """The settings shared by all runs that differ from the defaults, but those that have a fact of their own."""
        usual, mine = dict(flattened(Recipe().dump())), dict(flattened(self.setting.recipe.dump()))
        rest = mine.keys() - {"seed", "model.variant", "trainer.epochs"}
        return ", ".join(f"{key} {mine[key]}" for key in sorted(rest) if mine[key] != usual.get(key)) or "none"

    def _split(self) -> str:
        given = any(case.split for case in self.setting.manifest.cases)
        if given:
            return "the split that the data states"
        return "a split of its own" if self.setting.recipe.data.split_seed is None else "the same split"


def seen_in_training(record: Record, groups: Sequence[str]) -> NDArray[np.bool_]:
    """Returns for each test case of a run whether an image of its group is among those learned from or chosen by.

    Args:
        record: The run.
        groups: The group of each readable case, patients and near copies joined.
    """
    parts: dict[str, set[str]] = {}
    for group, part in zip(groups, record.trial.parts, strict=True):
        parts.setdefault(group, set()).add(part)
    rows = [i for i, part in enumerate(record.trial.parts) if part == "test"]
    return np.array([bool(parts[groups[row]] & {"train", "validation"}) for row in rows], np.bool_)


def sample(cases: Cases) -> Sample:
    """Returns judged cases as the bootstrap sees them."""

    def statistic(weights: Floats) -> dict[str, Floats]:
        found = cases.figures(weights)
        return {figure: found[figure] for figure in FIGURES}

    return Sample(cases.groups, statistic, cases.rests_on())


def told(name: str, other: str, figure: str, test: OverSeeds) -> str:
    """Returns what a difference says, in words: it was shown, or it was not, or there is none to speak of."""
    found = test.estimate
    what = capital(f"{name} against {other}, {NAMES.get(figure, figure)}")
    if found.estimate is None:
        return f"{what}: no difference can be given ({found.method})."
    if found.ci_low is None or found.ci_high is None:
        if found.estimate == 0:
            return f"{what}: the figures are the same ({found.method}); whether others would be cannot be said."
        return f"{what}: {signed(found.estimate)} ({found.method}); whether that is chance cannot be said."
    p_value = test.p_holm if test.p_holm is not None else test.p_value
    verdict = "a difference" if is_shown(test) else "no difference was shown"
    p_text = "" if p_value is None else f", p {'below 0.001' if p_value < 0.001 else f'{p_value:.3f}'}"
    return f"{what}: {signed(found.estimate)} ({signed(found.ci_low)} to {signed(found.ci_high)}{p_text}): {verdict}."


def is_shown(test: OverSeeds) -> bool:
    """Returns whether a difference was shown: p, corrected where it was, below 0.05."""
    p_value = test.p_holm if test.p_holm is not None else test.p_value
    return test.estimate.ci_low is not None and p_value is not None and p_value < 0.05


def _with_interval(found: Estimate) -> str:
    ends = (signed(value) for value in (found.estimate, found.ci_low, found.ci_high) if value is not None)
    return "{} ({} to {})".format(*ends)


def capital(text: str) -> str:
    """Returns a sentence with a capital at its start."""
    return text[:1].upper() + text[1:]


def finite(value: float | None) -> float | None:
    """Returns a number, None for NaN, which JSON has not."""
    return None if value is None or value != value else value


def _interval(test: OverSeeds) -> dict[str, float | None]:
    found = test.estimate
    return {"estimate": found.estimate, "ci_low": found.ci_low, "ci_high": found.ci_high}
