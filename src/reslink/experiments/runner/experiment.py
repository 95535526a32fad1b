"""The setup of an experiment: data, recipe and seeds, from which trials are made and run."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reslink.bundles.bundle import Bundle
from reslink.bundles.scope import Scope
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.case import UNUSED
from reslink.datasets.grouping import group_cases
from reslink.datasets.label_conflicts import check_label_conflicts, describe_conflicts, label_conflicts
from reslink.datasets.leakage import check_group_leakage, seen_by_ancestors, without_seen
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import find_duplicates
from reslink.errors import UsageError, counted, listed
from reslink.experiments.runner.input_masking import open_view, view_preprocess
from reslink.experiments.runner.scheduler import Cluster, QueueRunner, run_queue, run_trials
from reslink.experiments.runner.trial import RECIPE_VIEW, SharedData, Trial
from reslink.training.data import assign_splits
from reslink.training.monitoring.progress import Progress, phase, progress_callback
from reslink.training.recipe.inheritance import find_parent
from reslink.training.recipe.recipe import Recipe, recipe_from_dict


@dataclass(frozen=True)
class Experiment:
    """The setup of an experiment.

    Attributes:
        manifest: The data set.
        recipe: The settings that all trials share.
        out: Folder of experiments: trials in ``out/runs``, decoded images in ``out/cache``, results in ``out/<name>``.
        seeds: Each condition is trained once with each seed.
        jobs: Number of training processes; 0 trains in this process.
        progress: Receives the progress.
        cluster: Decodes images and runs trials on a cluster; None for this machine and ``jobs``.
    """

    manifest: Manifest
    recipe: Recipe
    out: Path
    seeds: tuple[int, ...]
    jobs: int
    progress: Progress
    cluster: Cluster | None = None

    def __post_init__(self) -> None:
        self.manifest.labels.require_exclusive(
            "An experiment",
            "Leave data.labels out of the recipe, and choose the column of the class with --columns label=COLUMN",
        )
        self.recipe.decision.check_labels(self.manifest.labels)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(
                f"The seeds are {list(self.seeds)}",
                "Seeds must be different numbers, 0 or higher",
                "Use for example --seeds 3",
            )
        if self.jobs < 0:
            raise UsageError(f"The number of jobs is {self.jobs}", "It must be 1 or higher", "Use for example --jobs 2")

    @property
    def runs(self) -> Path:
        """Folder of all trials."""
        return self.out / "runs"

    @cached_property
    def cache(self) -> PixelCache:
        """The images with the preprocessing of the recipe, decoded if necessary."""
        return self.open_view(RECIPE_VIEW)

    def open_view(self, view: str) -> PixelCache:
        """Decodes the images of a view before any trial needs them.

        Raises:
            UsageError: If other images can be read than with the recipe's own preprocessing.
        """
        settings, on_progress = self.recipe.trainer, progress_callback(self.progress)
        if self.cluster is not None:
            preprocess = view_preprocess(view, self.recipe.preprocess)
            self.cluster.fill_cache(self.manifest, preprocess, self.out / "cache", self.progress)
        with phase(self.progress, len(self.manifest), "Reading images", "image"):
            cache = open_view(
                self.manifest,
                self.recipe.preprocess,
                view,
                self.out / "cache",
                settings.workers,
                on_progress,
                verify=settings.verify_files,
            )
        if view == RECIPE_VIEW:
            for name, reason in cache.failed.items():
                self.progress.message(f"{name} is skipped: {reason}")
        elif cache.kept != self.cache.kept:
            only_one = sorted(set(cache.failed) ^ set(self.cache.failed))
            raise UsageError(
                f"With only one of the two preprocessings, these images can be read: {', '.join(only_one)}",
                "All conditions need the same images",
                "Remove these images",
            )
        return cache

    @cached_property
    def data(self) -> SharedData:
        """The data that all trials share.

        Raises:
            CheckFailedError: If an image has several labels, unless ``data.allow_conflicts`` is set.
        """
        cache, cases = self.cache, self.cache.manifest.cases
        duplicates = find_duplicates(cache.thumbnails, [case.patient_id for case in cases])
        conflicts = label_conflicts(cases, duplicates, cache.hashes)
        if not self.recipe.data.allow_conflicts:
            check_label_conflicts(cases, conflicts)
        elif conflicts:
            self.progress.message(f"{describe_conflicts(cases, conflicts)}.")
        groups, joined = (
            tuple(group_cases(cache.manifest, cache.thumbnails, "both", duplicates, include_similar=similar))
            for similar in (True, False)
        )
        return SharedData(self.manifest, self.manifest.digest(self.cache.file_hashes), groups, self.out / "cache", joined)

    @cached_property
    def split_groups(self) -> Sequence[str]:
        """The groups that a split keeps together, by the recipe's ``data.group_by``."""
        by = self.recipe.data.group_by
        return self.data.groups if by == "both" else group_cases(self.cache.manifest, self.cache.thumbnails, by)

    def make_recipe(self, seed: int, overrides: dict[str, Any] | None = None) -> Recipe:
        """Returns the recipe with a seed and overrides of the form ``section.key`` to value.

        Raises:
            UsageError: If an override is not allowed.
        """
        tree = self.recipe.dump() | {"seed": seed}
        for key, value in (overrides or {}).items():
            section, name = key.split(".")
            tree[section][name] = value
        recipe = recipe_from_dict(tree)
        recipe.network(len(self.manifest.labels))
        return recipe

    def split(self, recipe: Recipe, groups: Sequence[str] | None = None, *, use_given: bool = True) -> tuple[str, ...]:
        """Returns the split of each readable case, computed as ``reslink train`` does.

        See :meth:`usable` for the images that are in no evaluation.

        Args:
            recipe: Its section ``data`` and its seed are used.
            groups: The groups that stay together; None takes those of the recipe.
            use_given: Whether a split in the data is used.
        """
        return self.usable(self.assign(recipe, groups, use_given=use_given))

    def assign(self, recipe: Recipe, groups: Sequence[str] | None = None, *, use_given: bool = True) -> tuple[str, ...]:
        """Returns the split of each readable case as :meth:`split` does, also of those that cannot be evaluated."""
        manifest = self.cache.manifest
        if not use_given:
            manifest = replace(manifest, cases=tuple(replace(case, split=None) for case in manifest.cases))
        return tuple(assign_splits(manifest, groups or self.split_groups, recipe))

    def usable(self, splits: Sequence[str]) -> tuple[str, ...]:
        """Returns splits in which the validation, test and hold-out images that cannot be evaluated are ``unused``.

        These are the images that a model of this data refuses and, with ``init.parent`` in the recipe, those that an ancestor
        was trained on, in runs from scratch too, and whatever ``data.allow_leakage`` is.
        """
        return self._without_seen(self._without_refused(splits))

    @cached_property
    def refused(self) -> dict[str, str]:
        """Why a model that is trained on this data refuses a case, by case name: what its file states is out of scope.

        The scope is that of all cases. A model of few of them may have another one.
        """
        stated = self.cache.case_stated
        scope = Scope.of_training(stated, None)
        reasons = zip(self.cache.manifest.cases, map(scope.refusal, stated), strict=True)
        refused = {case.name: reason for case, reason in reasons if reason is not None}
        if refused:
            self.progress.message(refused_sentence(refused))
        return refused

    def _without_refused(self, splits: Sequence[str]) -> list[str]:
        names = [case.name for case in self.cache.manifest.cases]
        return [
            UNUSED if name in self.refused and split != "train" else split for name, split in zip(names, splits, strict=True)
        ]

    def _without_seen(self, splits: Sequence[str]) -> tuple[str, ...]:
        if self.parent is None:
            return tuple(splits)
        cache = self.cache
        seen = seen_by_ancestors(cache.manifest, self.data.groups, cache.thumbnails, splits, self.parent.seen_images)
        return tuple(without_seen(splits, seen, can_be_allowed=False))

    def count_seen(self, seed: int) -> int:
        """Returns the number of validation and test images of a seed that an ancestor was trained on."""
        assigned = self._without_refused(self.assign(self.make_recipe(seed)))
        return sum(a != b for a, b in zip(assigned, self._without_seen(assigned), strict=True))

    @cached_property
    def parent(self) -> Bundle | None:
        """The parent that the recipe names for fine-tuning."""
        parent = self.recipe.init.parent
        return None if parent is None else Bundle.load(find_parent(parent))

    def make_trial(self, condition: str, seed: int, overrides: dict[str, Any] | None = None, **options: Any) -> Trial:
        """Returns a trial on the split of its seed; ``options`` are further fields of :class:`Trial`.

        Raises:
            CheckFailedError: If a patient or near duplicates are in more than one split, unless ``data.allow_leakage``
                is set.
        """
        recipe = self.make_recipe(seed, overrides)
        if seed not in self._splits:
            splits = self.assign(recipe)
            if not recipe.data.allow_leakage:
                check_group_leakage(self.cache.manifest, self.data.groups, splits)
            self._splits[seed] = self.usable(splits)
        return Trial(condition, seed, recipe, self._splits[seed], **options)

    @cached_property
    def _splits(self) -> dict[int, tuple[str, ...]]:
        """The split of each seed, the same for all conditions."""
        return {}

    def run_trials(self, trials: Iterable[Trial]) -> dict[str, str]:
        """Runs the trials that are not complete; returns the reason of each failure by trial key."""
        by_key = {}
        for trial in trials:
            by_key[trial.key(self.data)] = trial
            trial.record_condition(trial.folder(self.data, self.runs))
        complete = sum(trial.is_complete(trial.folder(self.data, self.runs)) for trial in by_key.values())
        self.progress.message(_describe_runs(len(by_key), complete))
        return run_trials(list(by_key.values()), self.data, self.runs, self.run_queue, self.progress)

    @property
    def run_queue(self) -> QueueRunner:
        """What runs the trials."""
        return self.cluster or functools.partial(run_queue, jobs=self.jobs)


def _describe_runs(n: int, complete: int) -> str:
    """Returns how many runs there are, and how many need no training."""
    done = "all" if complete == n > 1 else f"{complete} of them" if complete < n else ""
    return f"{counted(n, 'run')}, {f'{done} already complete'.strip()}." if complete else f"{counted(n, 'run')} to train."


def refused_sentence(refused: Mapping[str, str]) -> str:
    """Returns which images are trained on but not evaluated, from the reasons by case name."""
    shown = listed([f"{name} ({reason})" for name, reason in refused.items()])
    return f"{counted(len(refused), 'image')} trained on, but not evaluated, because a model refuses them: {shown}."
