"""The tables, the chart and the sentences of the leave-one-source-out experiment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.case import Case
from reslink.errors import counted
from reslink.experiments.leave_one_source_out.answers import ABSTENTION, MEASURES, NO_ABSTENTION, TrialAnswers
from reslink.experiments.leave_one_source_out.plan import SourceSplits
from reslink.experiments.report import Row, Table
from reslink.experiments.runner.comparison import none_if_nan
from reslink.experiments.runner.results import TrialResult
from reslink.experiments.runner.seed_statistics import Key, SeedBootstrap, TrialSample
from reslink.labels import Labels
from reslink.metrics.classification import METRIC_NAMES
from reslink.reports.formatting import format_interval, format_number

NAMES: Final = METRIC_NAMES | {"coverage": "coverage (answered images)", "silent_errors": "silent errors (of all images)"}
FEW: Final = 10
"""Fewer sources say little about the next one."""
_NOT_KNOWN: Final = "not known"
_WORST_IS_HIGHEST: Final = ("ece", "silent_errors")
_UNSEEN, _INSIDE = "unseen ", "inside "
"""Prefix of the name of a source in the bootstrap: the source itself, and the validation images of the other sources."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The answers of all trials with a result.

    Attributes:
        plans: The splits of each source.
        results: The trials with a result.
        answers: The answers of each of them.
        cases: The readable cases.
        labels: The classes.
    """

    plans: Sequence[SourceSplits]
    results: Sequence[TrialResult]
    answers: Sequence[TrialAnswers]
    cases: Sequence[Case]
    labels: Labels

    @cached_property
    def bootstrap(self) -> SeedBootstrap:
        """The bootstrap over patients and duplicate groups of all sources."""
        return SeedBootstrap(self._samples(zip(self.results, self.answers, strict=True)))

    @cached_property
    def _abstaining(self) -> SeedBootstrap:
        """As :attr:`bootstrap`, with the models that can abstain only."""
        pairs = [pair for pair in zip(self.results, self.answers, strict=True) if pair[1].can_abstain]
        if len(pairs) == len(self.answers):
            return self.bootstrap
        return SeedBootstrap(self._samples(pairs), why_none=NO_ABSTENTION)

    def _samples(self, pairs: Iterable[tuple[TrialResult, TrialAnswers]]) -> dict[Key, TrialSample]:
        samples = {}
        for result, own in pairs:
            source, seed = result.trial.condition, result.trial.seed
            samples[_UNSEEN + source, seed] = own.unseen.sample()
            samples[_INSIDE + source, seed] = own.inside.sample()
        return samples

    def bootstrap_of(self, measure: str) -> SeedBootstrap:
        """Returns the bootstrap of the models that have a measure: for coverage and silent errors, those that can abstain."""
        return self._abstaining if measure in ABSTENTION else self.bootstrap

    @property
    def n_abstaining(self) -> int:
        """Number of models that can abstain."""
        return sum(own.can_abstain for own in self.answers)

    @property
    def sources(self) -> list[str]:
        """The sources with a result for at least one seed."""
        return list(dict.fromkeys(result.trial.condition for result in self.results))

    @cached_property
    def summary(self) -> list[Row]:
        """One row per measure: the mean over the sources inside and unseen, their difference, and the worst source."""
        return [_summary_row(self.bootstrap_of(measure), self.sources, measure) for measure in MEASURES]

    def points(self, source: str, seed: int) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Returns the measures of a trial without an interval, on the source and inside; NaN where undefined."""
        return self.bootstrap.points[_UNSEEN + source, seed], self.bootstrap.points[_INSIDE + source, seed]

    def of_source(self, source: str) -> list[TrialAnswers]:
        """Returns the answers of the trials of a source."""
        pairs = zip(self.results, self.answers, strict=True)
        return [answers for result, answers in pairs if result.trial.condition == source]


def _summary_row(bootstrap: SeedBootstrap, sources: Sequence[str], measure: str) -> Row:
    unseen = {source: bootstrap.mean(_UNSEEN + source, measure).estimate for source in sources}
    values = {source: own.estimate for source, own in unseen.items() if own.estimate is not None}
    if not values:
        return {"measure": measure, "title": NAMES[measure], "sources": 0, "models": 0}
    worst = (max if measure in _WORST_IS_HIGHEST else min)(values, key=lambda source: values[source])
    outside, inside = [_UNSEEN + source for source in values], [_INSIDE + source for source in values]
    return {
        "measure": measure,
        "title": NAMES[measure],
        "sources": len(values),
        "models": sum(len(bootstrap.seeds(name)) for name in outside),
        "inside": bootstrap.mean_of(inside, measure).estimate.as_dict(),
        "unseen": bootstrap.mean_of(outside, measure).estimate.as_dict(),
        "difference": bootstrap.mean_of(outside, measure, inside).as_dict(),
        "worst_source": worst,
        "worst": unseen[worst].as_dict(),
    }


def summary_table(outcomes: Outcomes) -> Table:
    """Returns the mean over the sources and the worst source of each measure."""
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "sources": ("sources", "count"),
        "models": ("models", "count"),
        "inside": ("inside: new patients of the training sources", "estimate"),
        "unseen": ("unseen source, mean", "estimate"),
        "difference": ("difference", "test"),
        "worst": ("unseen source, worst", "estimate"),
        "worst_source": ("worst source", "text"),
    }
    note = (
        "Each source has the same weight. Difference: unseen minus inside. The 95 % intervals hold for other patients of these "
        "sources, not for other sources. The worst source has the worst of several uncertain values, which is rather too bad. "
        "All metrics include the images from which the model abstains. Silent errors are wrong answers without an abstention. "
        "They and coverage are of the models that can abstain. "
        "Inside are the validation images, which chose the best epoch, so these values are rather too good. Temperature, "
        "threshold and abstention are cross-fitted inside. For the unseen source, they are fitted to all validation images."
    )
    return Table("summary", "What a hospital that the model has never seen can expect", columns, outcomes.summary, note)


def sources_table(outcomes: Outcomes) -> Table:
    """Returns the measures of each source that was left out."""
    columns: dict[str, tuple[str, Any]] = {"source": ("source", "text"), "runs": ("runs", "count")}
    columns |= {"can_abstain": ("models that can abstain", "count")}
    columns |= {measure: (NAMES[measure], "estimate") for measure in MEASURES}
    rows = [
        {"source": source, "runs": len(outcomes.of_source(source))}
        | {"can_abstain": sum(own.can_abstain for own in outcomes.of_source(source))}
        | {measure: outcomes.bootstrap_of(measure).mean(_UNSEEN + source, measure).estimate.as_dict() for measure in MEASURES}
        for source in outcomes.sources
    ]
    return Table("sources", "Each source, when no image of it was trained on", columns, rows)


def drop_table(outcomes: Outcomes) -> Table:
    """Returns inside, unseen and difference of each source and measure."""
    columns: dict[str, tuple[str, Any]] = {
        "source": ("source left out", "text"),
        "title": ("", "text"),
        "inside": ("inside", "estimate"),
        "unseen": ("unseen", "estimate"),
        "difference": ("difference", "test"),
    }
    rows = []
    for source in outcomes.sources:
        outside, inside = _UNSEEN + source, _INSIDE + source
        for measure in MEASURES:
            bootstrap = outcomes.bootstrap_of(measure)
            row: Row = {"source": source, "measure": measure, "title": NAMES[measure]}
            row |= {"inside": bootstrap.mean(inside, measure).estimate.as_dict()}
            row |= {"unseen": bootstrap.mean(outside, measure).estimate.as_dict()}
            rows.append(row | {"difference": bootstrap.difference(outside, inside, measure).as_dict()})
    note = (
        "Difference: unseen minus inside. Accuracy, coverage and silent errors also depend on the class frequencies. p is not "
    )
    return Table("differences", "Unseen source compared with inside", columns, rows, f"{note}corrected.")


def splits_table(outcomes: Outcomes) -> Table:
    """Returns the number of images of each split, and of those that are used for nothing."""
    columns: dict[str, tuple[str, Any]] = {"source": ("source left out", "text")}
    columns |= {name: (f"{name} images", "text") for name in ("train", "validation", "test")}
    columns |= {label: (f"test, {label}", "count") for label in outcomes.labels.names}
    columns |= {"groups": ("test, patients or duplicate groups", "count"), "related": ("not used, related", "text")}
    columns |= {"refused": ("test, refused", "text")}
    rows = []
    for plan in outcomes.plans:
        answers = outcomes.of_source(plan.source)
        splits = [trial.splits for trial in plan.trials]
        row: Row = {"source": plan.source} | {
            name: _range([own.count(name) for own in splits]) for name in ("train", "validation", "test")
        }
        tested = [row for row, split in enumerate(splits[0]) if split == "test"]
        row |= {label: sum(outcomes.cases[i].label == label for i in tested) for label in outcomes.labels.names}
        row |= {"groups": len(set(answers[0].unseen.predictions.groups)) if answers else None}
        row |= {"related": _related(plan) or "none"}
        rows.append(row | {"refused": _range([own.n_refused for own in answers])})
    note = (
        "Not used, related: images of other sources that share a patient or a near duplicate with the source that is left out. "
        "Refused: out of the scope of the model, counted as abstentions. Ranges are over the seeds."
    )
    return Table("splits", "Images", columns, rows, note)


def _range(counts: Sequence[int]) -> str:
    return " to ".join(map(str, dict.fromkeys([min(counts), max(counts)]))) if counts else "none"


def chart(outcomes: Outcomes) -> dict[str, Any]:
    """Returns the chart of the sources: AUROC, or accuracy if no source has both classes."""
    measure = next(row["measure"] for row in outcomes.summary if row["measure"] in ("auroc", "accuracy") and row["sources"])
    bootstrap, rows = outcomes.bootstrap, []
    for source in outcomes.sources:
        for prefix, label in ((_UNSEEN, source), (_INSIDE, f"inside, without {source}")):
            mean = bootstrap.mean(prefix + source, measure).estimate
            points = [bootstrap.points[prefix + source, seed][measure] for seed in bootstrap.seeds(prefix + source)]
            interval = {"estimate": mean.estimate, "ci_low": mean.ci_low, "ci_high": mean.ci_high}
            rows.append({"label": label, **interval, "points": [value for value in points if none_if_nan(value) is not None]})
    return {
        "kind": "intervals",
        "name": f"{measure}-sources",
        "title": f"{METRIC_NAMES[measure]} on each source that was left out, and inside",
        "axis": METRIC_NAMES[measure],
        "reference": 0.5 if measure == "auroc" else None,
        "rows": rows,
    }


def verdict(outcomes: Outcomes) -> list[str]:
    """Returns what a hospital that the model has never seen can expect, in sentences."""
    rows = {row["measure"]: row for row in outcomes.summary}
    main = [row for row in (rows["auroc"], rows["accuracy"]) if row["sources"]]
    expected = " and ".join(f"{row['title']} {_text(row['unseen'])}" for row in main)
    inside = " and ".join(f"{row['title']} {_text(row['inside'])}" for row in main)
    worst = " and ".join(f"{row['title']} {_text(row['worst'])} ({row['worst_source']})" for row in main)
    n = len(outcomes.sources)
    sentences = [
        f"A hospital that the model has never seen can expect {expected}, on average over {counted(n, 'source')}.",
        f"In the worst source: {worst}.",
        f"Inside, on new patients of the sources that the model was trained on: {inside}.",
        _abstention_sentence(rows["coverage"], rows["silent_errors"]),
        *_not_all_abstain(outcomes),
    ]
    if n < FEW:
        few = f"{counted(n, 'source')} {'is' if n == 1 else 'are'} few"
        sentences.append(f"{few}: the next hospital can be worse than the worst of them.")
    return sentences


def _not_all_abstain(outcomes: Outcomes) -> list[str]:
    """Returns how many models can abstain, if some cannot and some can."""
    able, n = outcomes.n_abstaining, len(outcomes.answers)
    if able in (0, n):
        return []
    return [f"Coverage and silent errors are those of {able} of {n} models; the others cannot abstain and answer every image."]


def _abstention_sentence(coverage: Row, silent: Row) -> str:
    if not coverage["sources"]:
        return "No model can abstain: each answers every image, and its silent errors are all its errors."
    if coverage["unseen"]["estimate"] is None:
        return (
            "How many images the model answers on average on an unseen source is not known. A wrong answer without an "
            f"abstention, in the worst source: {_percent(silent['worst'])} of all images ({silent['worst_source']})."
        )
    return (
        f"On an unseen source the model answers {_percent(coverage['unseen'])} of the images{_inside(coverage)}. A wrong "
        f"answer without an abstention: {_percent(silent['unseen'])} of all images{_inside(silent)}, in the worst source "
        f"{_percent(silent['worst'])} ({silent['worst_source']})."
    )


def _inside(row: Row) -> str:
    return "" if row["inside"]["estimate"] is None else f" (inside: {_percent(row['inside'])})"


def _text(estimate: Mapping[str, Any]) -> str:
    if estimate["estimate"] is None:
        return _NOT_KNOWN
    if estimate["ci_low"] is None:
        return format_number(estimate["estimate"])
    return f"{format_number(estimate['estimate'])} ({format_interval(estimate)})"


def _percent(estimate: Mapping[str, Any]) -> str:
    return _NOT_KNOWN if estimate["estimate"] is None else f"{100 * estimate['estimate']:.1f} %"


def related_sentences(plans: Sequence[SourceSplits]) -> list[str]:
    """Returns how many images of other sources are not used when a source is left out, one sentence per source."""
    return [
        f"When {plan.source} is held out, images that share a patient or a near duplicate with it are left out as well: "
        f"{_related(plan)}."
        for plan in plans
        if plan.related
    ]


def _related(plan: SourceSplits) -> str:
    return ", ".join(f"{counted(n, 'image')} of {name}" for name, n in sorted(plan.related.items()))


def no_mean_note(outcomes: Outcomes) -> list[str]:
    """Returns a sentence if there is no mean over the sources, because no seed has a result for all of them."""
    without = [row["title"] for row in outcomes.summary if row["sources"] and row["unseen"]["estimate"] is None]
    return [f"Mean over the sources: no seed has a result for each of them ({', '.join(without)})."] if without else []


def one_class_notes(outcomes: Outcomes) -> list[str]:
    """Returns which sources have one class only, in sentences."""
    notes = []
    for plan in outcomes.plans:
        tested: NDArray[np.int64] = np.flatnonzero(np.array(plan.trials[0].splits) == "test")
        classes = {outcomes.cases[row].label for row in tested}
        if len(classes) == 1:
            notes.append(
                f"{plan.source}: all images are of {classes.pop()!r}, so it has no AUROC, and not both sensitivity and "
                "specificity."
            )
    return notes
