"""Compares recipes by cross-validation on the development part of a data set; the test part is never looked at.

    python benchmarks/search.py DATA --out FOLDER --trial base --trial context --folds 3 --fold 0

The test part is that of ``data.split_seed: 0``, as in the recipes that ship. What is left, training and validation
parts together, is divided into folds by patient and near-copy group; each trial trains on all but one of them and is judged
on that one with the weights of the last epoch. Trials are named in benchmarks/trials.yaml, as changes of the default recipe.
A finished trial is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import variations
import yaml

from reslink.bundles.bundle import Bundle
from reslink.datasets import splits
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError, UsageError, nearest
from reslink.explain.localize import localization
from reslink.training.data import Materials, open_materials
from reslink.training.monitoring.progress import Silent
from reslink.training.recipe.recipe import Recipe, load_recipe
from reslink.training.trainer import train

TRIALS = Path(__file__).with_name("trials.yaml")
VARIATION = "variation="


def recipe_of(trials: dict[str, Any], name: str, seed: int) -> Recipe:
    """Returns the recipe of a trial, with the weights of the last epoch in the bundle.

    Raises:
        UsageError: If there is no such trial.
    """
    if name not in trials["trials"]:
        raise UsageError(
            f"There is no trial {name!r}", f"{TRIALS.name} has {', '.join(trials['trials'])}", nearest(name, trials["trials"])
        )
    always = ["data.split_seed=0", "trainer.export=last", f"seed={seed}"]
    changes = [change for change in changes_of(trials, name) if not change.startswith(VARIATION)]
    return load_recipe(None, [*trials["always"], *changes, *always])


def variation_of(trials: dict[str, Any], name: str) -> str | None:
    """Returns the variation that a trial asks for, one of benchmarks/variations.py, or None."""
    return next((change.removeprefix(VARIATION) for change in changes_of(trials, name) if change.startswith(VARIATION)), None)


def changes_of(trials: dict[str, Any], name: str) -> list[str]:
    """Returns the changes of a trial, those of the parts that it names included."""
    return [change for item in trials["trials"][name] for change in ([item] if isinstance(item, str) else item)]


def folded(found: Materials, folds: int, fold: int) -> Materials:
    """Returns the data with one fold of the development part for validation and the others for training."""
    inside = np.flatnonzero(np.array(found.parts) != "test").tolist()
    numbers = splits.folds(found.manifest.subset(inside), [found.groups[i] for i in inside], folds, 0)
    parts = list(found.parts)
    for index, number in zip(inside, numbers, strict=True):
        parts[index] = "validation" if number == fold else "train"
    return replace(found, parts=parts)


def judged(name: str, recipe: Recipe, found: Materials, run: Path, *, resume: bool = True) -> dict[str, Any]:
    """Trains a trial and returns its row; without ``resume`` a run that was cut short begins anew."""
    done, of = run / "trial.json", {"recipe_digest": recipe.digest(), "data_digest": found.digest}
    if not done.exists():
        start, anew = time.process_time(), not (resume and run.exists())
        result = train(found.manifest, recipe, run, resume=resume, overwrite=not resume, materials=found)
        figures = {
            "trial": name,
            **of,
            **{name.removeprefix("val_"): value for name, value in result.validation.items()},
            "cpu_seconds": round(time.process_time() - start, 1) if anew else None,  # what an earlier process took is not known
            **pointing(result.bundle, found),
        }
        done.write_text(json.dumps(figures))
    row: dict[str, Any] = json.loads(done.read_text())
    if any(row.get(key) != value for key, value in of.items()):
        raise UsageError(
            f"{run} holds {name} with other settings or images",
            "A trial is made once in a folder",
            "Choose another folder for --out",
        )
    return row


def pointing(bundle: Path, found: Materials) -> dict[str, float]:
    """Returns the pointing game of the final attention on the fold's lesions; nothing where no mask is known."""
    loaded, fold = Bundle.load(bundle), found.indices("validation")
    known = localization(loaded.network(), found.cache, fold, loaded.labels, preprocess=loaded.preprocess)["methods"]
    return {"pointing": known["final_attention"]["pointing_game"]["estimate"]} if "final_attention" in known else {}


def main(args: Sequence[str] | None = None) -> None:
    """Trains what is missing and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trial", action="append", help="a name in trials.yaml; all where none is given")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    own = parser.parse_args(args)
    try:
        compare(own)
    except ReslinkError as error:
        raise SystemExit(f"Error: {error}") from error


def compare(own: argparse.Namespace) -> None:
    """Trains and prints one trial after the other.

    Raises:
        ReslinkError: If there is no such trial or fold, or another process trains one of them in the same folder.
    """
    if not 0 <= own.fold < own.folds or own.folds < 2:
        raise UsageError(
            f"--fold {own.fold} of --folds {own.folds} was asked for",
            "There are two folds or more, and the first is 0",
            f"Choose --fold 0 to {max(own.folds, 2) - 1}",
        )
    trials = yaml.safe_load(TRIALS.read_text(encoding="utf-8"))
    print("| trial | accuracy | AUROC | cross-entropy | pointing | processor seconds |\n|---|--:|--:|--:|--:|--:|")
    for name in own.trial or trials["trials"]:
        recipe = recipe_of(trials, name, own.seed)
        data = folded(open_materials(Manifest.open(own.data), recipe, own.out / "cache", Silent()), own.folds, own.fold)
        run, variation = own.out / f"{own.data.name}_{own.folds}_{own.fold}_{name}_{own.seed}", variation_of(trials, name)
        with variations.varied(variation, recipe, data):
            row = judged(name, recipe, data, run, resume=variation is None)  # a checkpoint knows no variation
        point = f"{row['pointing']:.3f}" if "pointing" in row else "–"
        seconds = "–" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.0f}"
        print(f"| {name} | {row['accuracy']:.3f} | {row['auroc']:.4f} | {row['loss']:.3f} | {point} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
