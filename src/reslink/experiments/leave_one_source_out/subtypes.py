"""Sensitivity for the subtypes of the positive class in a source that was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reslink.datasets.case import Case
from reslink.evaluation.subgroup_columns import flag_columns
from reslink.experiments.leave_one_source_out.answers import ABSTENTION, NO_ABSTENTION
from reslink.experiments.leave_one_source_out.tables import NAMES, Outcomes
from reslink.experiments.report import Table
from reslink.experiments.runner.seed_statistics import SeedBootstrap
from reslink.labels import Labels


def subtype_table(outcomes: Outcomes) -> Table:
    """Returns the sensitivity for each subtype of the positive class that the table states in a column of 0 and 1."""
    samples, abstaining = {}, {}
    images: dict[tuple[str, str], int] = {}
    by_name = {case.name: case for case in outcomes.cases}
    for result, own in zip(outcomes.results, outcomes.answers, strict=True):
        cases = [by_name[name] for name in own.unseen.predictions.names]
        for column in subtype_columns(cases, outcomes.labels):
            inside = np.array([case.extra.get(column, "").strip() == "1" for case in cases], np.bool_)
            key = (result.trial.condition, column)
            images[key] = int(inside.sum())
            sample = own.unseen.subset(inside).sample()
            samples["\0".join(key), result.trial.seed] = sample
            if own.can_abstain:
                abstaining["\0".join(key), result.trial.seed] = sample
    bootstraps = {"sensitivity": SeedBootstrap(samples)}
    bootstraps |= dict.fromkeys(ABSTENTION, SeedBootstrap(abstaining, why_none=NO_ABSTENTION))
    rows = [
        {"source": key[0], "subtype": key[1], "images": images[key]}
        | {measure: own.mean("\0".join(key), measure).estimate.as_dict() for measure, own in bootstraps.items()}
        for key in sorted(images)
    ]
    columns: dict[str, tuple[str, Any]] = {"source": ("source left out", "text"), "subtype": ("subtype", "text")}
    columns |= {"images": ("images", "count")} | {measure: (NAMES[measure], "estimate") for measure in bootstraps}
    note = f"Images of {outcomes.labels.positive} with a 1 in the column of the subtype. An image can have several subtypes."
    return Table("subtypes", "Subtypes of an unseen source", columns, rows, note)


def subtype_columns(cases: Sequence[Case], labels: Labels) -> list[str]:
    """Returns the columns of 0 and 1 that state a subtype of the positive class: 1 for positive cases only.

    Args:
        cases: The cases of a source.
        labels: The classes; more than two have no subtypes.
    """
    if labels.positive is None:
        return []
    return [
        column
        for column in flag_columns(cases)
        if {case.label for case in cases if case.extra.get(column, "").strip() == "1"} == {labels.positive}
    ]
