"""One training run of an experiment: its settings, its folder, and whether its results are complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reslink import __version__
from reslink.datasets.manifest import Manifest
from reslink.files import sha256, write_json
from reslink.networks.entry_points import code_digest
from reslink.networks.external_config import has_attention
from reslink.settings_text import read_json
from reslink.training.recipe.recipe import Recipe
from reslink.training.run_folder import CONDITIONS, FINISHED

DIVERGED = "diverged.json"
ATTENTION = "attention.csv"
RECIPE_VIEW = "plain"


@dataclass(frozen=True)
class SharedData:
    """The data that all trials of an experiment share.

    Attributes:
        manifest: The data set.
        digest: Its SHA-256.
        groups: Group of each readable case, in the order of the cache: cases of one patient, near duplicates, and images that
            are only similar. A new split keeps them together.
        cache: Folder of the decoded images.
        joined_groups: The same without images that are only similar. Leakage is checked with these groups.
    """

    manifest: Manifest
    digest: str
    groups: tuple[str, ...]
    cache: Path
    joined_groups: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One training run.

    Attributes:
        condition: Name of the condition that is compared.
        seed: Seed of the run.
        recipe: Its settings, with the seed.
        splits: Split of each readable case: train, validation, test or unused.
        view: The input view that the network is trained on; see ``input_masking.VIEWS``.
        test_views: Further views that the trained network is evaluated on.
        measure_attention: Whether the attention weights are measured on the test cases.
        soft_targets: Distribution over the classes for each readable case, which is learned instead of its label; None for the
            labels.
    """

    condition: str
    seed: int
    recipe: Recipe
    splits: tuple[str, ...]
    view: str = RECIPE_VIEW
    test_views: tuple[str, ...] = ()
    measure_attention: bool = False
    soft_targets: tuple[tuple[float, ...], ...] | None = None

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"{self.condition}, seed {self.seed}"

    def key(self, data: SharedData) -> str:
        """Returns the name of its folder: a hash of everything that determines the trained weights."""
        determinants = [__version__, data.digest, self.recipe.digest(), sha256("\n".join(self.splits)), self.view]
        if self.recipe.model.entry_point is not None:
            determinants.append(str(code_digest(self.recipe.model.entry_point)))
        if self.recipe.data.balance_sources:
            determinants.append(data.manifest.sources_digest())
        if self.soft_targets is not None:
            determinants.append(sha256(json.dumps(self.soft_targets)))
        return sha256(json.dumps(determinants))[:16]

    def folder(self, data: SharedData, runs: Path) -> Path:
        """Returns its folder inside the folder of all runs."""
        return runs / self.key(data)

    def record_condition(self, folder: Path) -> None:
        """Writes the condition to its folder, whose name is a hash. Conditions with the same settings share a folder."""
        path = folder / CONDITIONS
        before = read_json(path)["conditions"] if path.exists() else []
        if self.condition not in before:
            write_json(path, {"conditions": [*before, self.condition]})

    def result_files(self) -> Sequence[str]:
        """Returns the files that a complete trial leaves in its folder."""
        if "test" not in self.splits:
            return []
        files = [predictions_file(view) for view in (RECIPE_VIEW, *self.test_views)]
        return [*files, ATTENTION] if self.measures_attention else files

    @property
    def measures_attention(self) -> bool:
        """Whether attention is to be measured and the network has any."""
        return self.measure_attention and has_attention(self.recipe.network())

    def is_complete(self, folder: Path) -> bool:
        """Returns whether its folder has all results, or the trial diverged."""
        if (folder / DIVERGED).exists():
            return True
        return (folder / FINISHED).exists() and all((folder / file).exists() for file in self.result_files())


def predictions_file(view: str) -> str:
    """Returns the name of the predictions on a view, inside the folder of a trial."""
    return "predictions.csv" if view == RECIPE_VIEW else f"views/{view}.csv"
