"""The splits of the leave-one-source-out experiment: test on one source, train and validate on the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reslink.audit.checks.sources import source_names
from reslink.datasets.case import UNUSED
from reslink.datasets.grouping import group_cases
from reslink.datasets.near_duplicates.groups import connected_groups, pairs_of_equal_keys
from reslink.errors import UsageError, check_choice, counted
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import Trial
from reslink.training.data import assign_splits
from reslink.training.recipe.recipe import Recipe

_LEAST_SOURCES = 2


@dataclass(frozen=True)
class SourceSplits:
    """The splits that leave one source out.

    Attributes:
        source: The source.
        trials: One trial per seed.
        related: Number of images of each other source that are not used, because they share a patient or a near duplicate
            with this source.
    """

    source: str
    trials: Sequence[Trial]
    related: Counter[str]


@dataclass(frozen=True)
class Plan:
    """The splits of all sources.

    Attributes:
        sources: The splits of each source.
        groups: The group of each readable case, from :func:`groups_within_sources`.
        impossible: Why a source cannot be left out, in sentences.
    """

    sources: Sequence[SourceSplits]
    groups: Sequence[str]
    impossible: Sequence[str]


def plan_sources(experiment: Experiment, only: Sequence[str] = ()) -> Plan:
    """Returns the splits of each source.

    Args:
        experiment: Data, recipe and seeds.
        only: The sources to leave out; empty for all.

    Raises:
        UsageError: If a case has no source, there are fewer than two sources, one of ``only`` is none of them, the recipe has
            folds, or no source can be left out.
    """
    sources = _check_sources(experiment)
    for name in only:
        check_choice("source", name, sources)
    if experiment.recipe.data.folds is not None:
        raise UsageError(
            f"The recipe has data.folds {experiment.recipe.data.folds}",
            "Here the source decides what is in the test split; the other sources are divided by data.fractions",
            "Leave data.folds out of the recipe",
        )
    groups = groups_within_sources(experiment)
    plans: list[SourceSplits] = []
    impossible: list[str] = []
    for source in only or sources:
        try:
            plans.append(_plan_source(experiment, groups, source))
        except UsageError as error:
            impossible.append(f"{source} is not left out, because the other sources cannot be trained on: {error.given}.")
    if not plans:
        raise UsageError(
            f"No source can be left out. {impossible[0]}",
            "Each class needs at least two patients or duplicate groups outside the source that is left out",
            "Add sources that have every class",
        )
    return Plan(plans, groups, impossible)


def groups_within_sources(experiment: Experiment) -> tuple[str, ...]:
    """Returns the group of each case: the same patient, near duplicates, and similar images of the same source.

    Similar images of one source may be neighboring slices of a patient. Those of two sources are not, and chains of them would
    join unrelated patients of all sources. With ``data.group_by=scan``, probable scans take the place of similar images; other
    values of it are not used.
    """
    manifest, thumbnails = experiment.cache.manifest, experiment.cache.thumbnails
    keys: list[tuple[str | None, str]] = [(None, "")] * len(manifest)
    sources, by = source_names(manifest), experiment.recipe.data.group_by
    for source in set(sources):
        rows = [row for row, own in enumerate(sources) if own == source]
        found = group_cases(manifest.subset(rows), thumbnails[rows], by if by == "scan" else "both")
        for row, group in zip(rows, found, strict=True):
            keys[row] = (source, group)
    pairs = [*pairs_of_equal_keys(keys), *pairs_of_equal_keys(experiment.data.joined_groups)]
    return tuple(f"group {number}" for number in connected_groups(len(manifest), np.array(pairs, np.intp)))


def group_by_note(experiment: Experiment) -> list[str]:
    """Returns a sentence if ``data.group_by`` of the recipe is not used."""
    by = experiment.recipe.data.group_by
    if by in ("both", "scan"):
        return []
    return [f"data.group_by={by} is not used: patients, near duplicates and similar images of a source always stay together."]


def without_given_split(experiment: Experiment) -> Experiment:
    """Returns the experiment on the same data without the split that it states, and reports that it is not used."""
    manifest = experiment.manifest
    if not any(case.split for case in manifest.cases):
        return experiment
    experiment.progress.message("The split that the data states is not used; the sources decide.")
    return replace(experiment, manifest=replace(manifest, cases=tuple(replace(case, split=None) for case in manifest.cases)))


def _check_sources(experiment: Experiment) -> list[str]:
    """Returns the sources of all cases, sorted; checked before any image is read."""
    cases, names = experiment.manifest.cases, source_names(experiment.manifest)
    without = [case.name for case, name in zip(cases, names, strict=True) if not name]
    sources = sorted(set(names) - {""})
    if without and sources:
        raise UsageError(
            f"{len(without)} of {counted(len(cases), 'image')} have no source; the first is {without[0]}",
            "Every image states its source (hospital, scanner or data set)",
            "Fill the column 'source'",
        )
    if len(sources) < _LEAST_SOURCES:
        raise UsageError(
            f"The data has one source, {sources[0]!r}" if sources else "The data states no source",
            "Leave-one-source-out needs at least two sources: several data sets, or the column 'source' of the table",
            "Give several data sets, or name the column that holds the hospital or scanner: --columns source=HOSPITAL",
        )
    return sources


def _plan_source(experiment: Experiment, groups: Sequence[str], source: str) -> SourceSplits:
    names, joined = source_names(experiment.cache.manifest), experiment.data.joined_groups
    inside = {group for name, group in zip(names, joined, strict=True) if name == source}
    related = [name != source and group in inside for name, group in zip(names, joined, strict=True)]
    rest = [row for row, name in enumerate(names) if name != source and not related[row]]
    trials = [Trial(source, seed, *_split(experiment, groups, source, seed, rest)) for seed in experiment.seeds]
    return SourceSplits(source, trials, Counter(name for row, name in enumerate(names) if related[row]))


def _split(
    experiment: Experiment, groups: Sequence[str], source: str, seed: int, rest: Sequence[int]
) -> tuple[Recipe, tuple[str, ...]]:
    """Returns the recipe of a seed and the split of each case; ``rest`` are the rows to train and validate on."""
    train, validation, _ = experiment.recipe.data.fractions
    share = train / (train + validation)
    recipe = experiment.make_recipe(seed, {"data.fractions": (share, 1 - share, 0.0)})
    manifest = experiment.cache.manifest
    splits = ["test" if name == source else UNUSED for name in source_names(manifest)]
    assigned = assign_splits(manifest.subset(rest), [groups[row] for row in rest], recipe)
    for row, split in zip(rest, assigned, strict=True):
        splits[row] = split
    return recipe, experiment.usable(splits)
