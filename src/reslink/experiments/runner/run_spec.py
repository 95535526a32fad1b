"""One training run of a study: what it is made from, where it stands, and what of it is left to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reslink import __version__
from reslink.datasets.manifest import Manifest
from reslink.files import sha256
from reslink.training.recipe.recipe import Recipe
from reslink.training.run_folder import FINISHED

UNUSED = "unused"
"""The part of a case that a run neither learns from nor is judged on."""

STOPPED = "stopped.json"
ATTENTION = "attention.csv"
PLAIN = "plain"


@dataclass(frozen=True)
class Data:
    """What all runs of a study share.

    Attributes:
        manifest: The data set.
        digest: Its SHA-256.
        groups: Group of each readable case, in the order of the cache: patients and near copies joined.
        cache: Folder of the decoded images.
    """

    manifest: Manifest
    digest: str
    groups: tuple[str, ...]
    cache: Path


@dataclass(frozen=True)
class Trial:
    """One training run.

    Attributes:
        arm: Name of what is compared.
        seed: Seed of the run.
        recipe: Its settings, seed included.
        parts: Part of each readable case: train, validation, test or unused.
        look: What the network sees; see ``looks.LOOKS``.
        tests: Further looks on which the trained network is judged.
        attention: Whether the gates are measured on the test cases.
    """

    arm: str
    seed: int
    recipe: Recipe
    parts: tuple[str, ...]
    look: str = PLAIN
    tests: tuple[str, ...] = ()
    attention: bool = False

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.arm}, seed {self.seed}"

    def key(self, data: Data) -> str:
        """Returns the name of its folder: a hash of all that decides its weights.

        Args:
            data: What it learns from.
        """
        made_from = [__version__, data.digest, self.recipe.digest(), sha256("\n".join(self.parts)), self.look]
        return sha256(json.dumps(made_from))[:16]

    def folder(self, data: Data, runs: Path) -> Path:
        """Returns its folder below that of all runs."""
        return runs / self.key(data)

    def judgements(self) -> Sequence[str]:
        """Returns the files that say what came of it, below its folder."""
        files = ["predictions.csv", *(f"looks/{look}.csv" for look in self.tests)]
        return [*files, ATTENTION] if self.attention and self.recipe.network().attention != "none" else files

    def done(self, folder: Path) -> bool:
        """Whether nothing is left to do in its folder."""
        if (folder / STOPPED).exists():
            return True
        return (folder / FINISHED).exists() and all((folder / file).exists() for file in self.judgements())
