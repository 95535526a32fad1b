"""What a study works with: the data opened once, the settings, and where its runs and results stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.grouping import group_cases
from reslink.datasets.leakage import check_torn
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.experiments.runner.input_masking import open_look
from reslink.experiments.runner.run_spec import PLAIN, Data, Trial
from reslink.experiments.runner.scheduler import run_all
from reslink.training.data import divide
from reslink.training.monitoring.progress import Progress, so_far
from reslink.training.recipe.recipe import Recipe, make_recipe


@dataclass(frozen=True)
class Setting:
    """What a study works with.

    Attributes:
        manifest: The data set.
        recipe: The settings that all runs share.
        out: Folder of studies; runs in ``out/runs``, decoded images in ``out/cache``, results in ``out/<study>``.
        seeds: One run of each arm for each.
        jobs: Training processes at once; 0 trains in this process.
        progress: Hears how it goes.
    """

    manifest: Manifest
    recipe: Recipe
    out: Path
    seeds: tuple[int, ...]
    jobs: int
    progress: Progress

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(
                f"The seeds are {list(self.seeds)}", "Seeds are different numbers from 0 on", "Write for example --seeds 3"
            )
        if self.jobs < 0:
            raise UsageError(f"{self.jobs} jobs were asked for", "At least one run goes on at a time", "Write --jobs 2")

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return self.out / "runs"

    @cached_property
    def cache(self) -> PixelCache:
        """The images as the recipe has them, decoded now if they are not."""
        return self.look(PLAIN)

    def look(self, look: str) -> PixelCache:
        """Decodes the images of a look before any run needs them.

        Raises:
            UsageError: If other images can be read than under the recipe's own settings.
        """
        self.progress.start(len(self.manifest), "Reading images")
        workers = self.recipe.trainer.workers
        try:
            cache = open_look(self.manifest, self.recipe.preprocess, look, self.out / "cache", workers, so_far(self.progress))
        finally:
            self.progress.end()
        if look == PLAIN:
            for name, reason in cache.failed.items():
                self.progress.message(f"{name} is left out: {reason}")
        elif cache.kept != self.cache.kept:
            raise UsageError(
                f"Some images can be read in one way only: {', '.join(sorted(set(cache.failed) ^ set(self.cache.failed)))}",
                "A study compares the same images",
                "Leave these images out",
            )
        return cache

    @cached_property
    def data(self) -> Data:
        """What all runs share."""
        groups = tuple(group_cases(self.cache.manifest, self.cache.thumbnails, "both"))
        return Data(self.manifest, self.manifest.digest(self.cache.file_hashes), groups, self.out / "cache")

    @cached_property
    def kept_together(self) -> Sequence[str]:
        """What never stands on two sides, as the recipe's ``data.group_by`` says."""
        by = self.recipe.data.group_by
        return self.data.groups if by == "both" else group_cases(self.cache.manifest, self.cache.thumbnails, by)

    def changed(self, seed: int, changes: dict[str, Any] | None = None) -> Recipe:
        """Returns the recipe with a seed and some changes ``section.key`` to value.

        Raises:
            UsageError: If a change is not allowed.
        """
        tree = self.recipe.dump() | {"seed": seed}
        for key, value in (changes or {}).items():
            section, name = key.split(".")
            tree[section][name] = value
        recipe = make_recipe(tree)
        recipe.network(len(self.manifest.labels))
        return recipe

    def parts(self, recipe: Recipe, groups: Sequence[str] | None = None, *, given: bool = True) -> tuple[str, ...]:
        """Returns the part of each readable case, as ``reslink train`` would divide them.

        Args:
            recipe: Its section ``data`` and its seed are used.
            groups: What stays together; as the recipe says where None.
            given: Whether a split that the data states is kept.
        """
        manifest = self.cache.manifest
        if not given:
            manifest = replace(manifest, cases=tuple(replace(case, split=None) for case in manifest.cases))
        return tuple(divide(manifest, groups or self.kept_together, recipe))

    def trial(self, arm: str, seed: int, changes: dict[str, Any] | None = None, **more: Any) -> Trial:
        """Returns a run on the split of its seed.

        Raises:
            GateError: If a patient or near copies stand on two sides of it, and ``data.allow_leakage`` is not set.
        """
        recipe = self.changed(seed, changes)
        if seed not in self._parts:
            self._parts[seed] = self.parts(recipe)
            if not recipe.data.allow_leakage:
                check_torn(self.cache.manifest, self.data.groups, self._parts[seed])
        return Trial(arm, seed, recipe, self._parts[seed], **more)

    @cached_property
    def _parts(self) -> dict[int, tuple[str, ...]]:
        """The parts of a seed, which no arm changes."""
        return {}

    def do(self, trials: Iterable[Trial]) -> dict[str, str]:
        """Does what is left to do of the trials; returns why one failed, by its key."""
        wanted = list(trials)
        self._say(wanted)
        return run_all(wanted, self.data, self.runs, self.jobs, self.progress)

    def _say(self, trials: Sequence[Trial]) -> None:
        keys = {trial.key(self.data): trial for trial in trials}
        there = sum(trial.done(trial.folder(self.data, self.runs)) for trial in keys.values())
        self.progress.message(f"{len(keys)} runs; {there} are done already.")
