"""Compares recipes by cross-validation on the development part of a data set; the test split is not used.

    python benchmarks/search.py DATA --out FOLDER --trial base --trial context --folds 3 --fold 0

The test split is that of ``data.split_seed: 0``, as in the published recipes. The rest (training and validation splits)
is divided into folds by patient and duplicate group. Each trial is trained on all but one fold and evaluated on that
fold with the weights of the last epoch. Trials are named in benchmarks/trials.yaml, as changes of the default recipe.
Finished trials are skipped.
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
from reslink.errors import ReslinkError, UsageError, suggest
from reslink.explain.localize import localization
from reslink.training.data import TrainingData, open_training_data
from reslink.training.monitoring.progress import SilentProgress
from reslink.training.recipe.recipe import Recipe, load_recipe
from reslink.training.trainer import train

TRIALS = Path(__file__).with_name("trials.yaml")
VARIATION = "variation="


def recipe_of(trials: dict[str, Any], name: str, seed: int) -> Recipe:
    """Returns the recipe of a trial, with the weights of the last epoch in the bundle.

    Raises:
        UsageError: If there is no trial of this name.
    """
    if name not in trials["trials"]:
        raise UsageError(
            f"There is no trial {name!r}", f"{TRIALS.name} has {', '.join(trials['trials'])}", suggest(name, trials["trials"])
        )
    always = ["data.split_seed=0", "data.allow_conflicts=true", "trainer.export=last", f"seed={seed}"]
    changes = [change for change in changes_of(trials, name) if not change.startswith(VARIATION)]
    return load_recipe(None, [*trials["always"], *changes, *always])


def variation_of(trials: dict[str, Any], name: str) -> str | None:
    """Returns the variation of a trial, a name in benchmarks/variations.py, or None."""
    return next((change.removeprefix(VARIATION) for change in changes_of(trials, name) if change.startswith(VARIATION)), None)


def changes_of(trials: dict[str, Any], name: str) -> list[str]:
    """Returns the changes of a trial, including those of its parts."""
    return [change for item in trials["trials"][name] for change in ([item] if isinstance(item, str) else item)]


def folded(data: TrainingData, folds: int, fold: int) -> TrainingData:
    """Returns the data with one fold of the development data as validation split and the others as training split."""
    inside = np.flatnonzero(np.array(data.splits) != "test").tolist()
    numbers = splits.assign_folds(data.manifest.subset(inside), [data.groups[i] for i in inside], folds, 0)
    split_names = list(data.splits)
    for index, number in zip(inside, numbers, strict=True):
        split_names[index] = "validation" if number == fold else "train"
    return replace(data, splits=split_names)


def run_trial(name: str, recipe: Recipe, data: TrainingData, run: Path, *, resume: bool = True) -> dict[str, Any]:
    """Trains a trial and returns its row; without ``resume`` an interrupted run is started again."""
    record, digests = run / "trial.json", {"recipe_digest": recipe.digest(), "data_digest": data.digest}
    if not record.exists():
        start, is_new = time.process_time(), not (resume and run.exists())
        result = train(data.manifest, recipe, run, resume=resume, overwrite=not resume, training_data=data)
        metrics = {
            "trial": name,
            **digests,
            **{name.removeprefix("val_"): value for name, value in result.validation.items()},
            "cpu_seconds": round(time.process_time() - start, 1)
            if is_new
            else None,  # the time of an earlier process is unknown
            **pointing(result.bundle, data),
        }
        record.write_text(json.dumps(metrics))
    row: dict[str, Any] = json.loads(record.read_text())
    if any(row.get(key) != value for key, value in digests.items()):
        raise UsageError(
            f"{run} holds {name} with other settings or images",
            "A folder holds one run per trial",
            "Choose another folder for --out",
        )
    return row


def pointing(bundle: Path, data: TrainingData) -> dict[str, float]:
    """Returns the pointing game of the final attention on the lesions of the fold; empty without lesion masks."""
    loaded, fold = Bundle.load(bundle), data.indices("validation")
    methods = localization(loaded.network(), data.cache, fold, loaded.labels, preprocess=loaded.preprocess)["methods"]
    return {"pointing": methods["final_attention"]["pointing_game"]["estimate"]} if "final_attention" in methods else {}


def main(args: Sequence[str] | None = None) -> None:
    """Trains the missing trials and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--trial", action="append", help="name in trials.yaml; all by default")
    parser.add_argument("--folds", type=int, default=3, help="number of folds")
    parser.add_argument("--fold", type=int, default=0, help="held-out fold, from 0")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs")
    options = parser.parse_args(args)
    try:
        compare(options)
    except ReslinkError as error:
        raise SystemExit(f"Error: {error}") from error


def compare(options: argparse.Namespace) -> None:
    """Trains and prints the trials one by one.

    Raises:
        ReslinkError: If a trial or fold does not exist, or another process trains in the same folder.
    """
    if not 0 <= options.fold < options.folds or options.folds < 2:
        raise UsageError(
            f"--fold {options.fold} was given with --folds {options.folds}",
            "There are at least two folds, numbered from 0",
            f"Choose --fold 0 to {max(options.folds, 2) - 1}",
        )
    trials = yaml.safe_load(TRIALS.read_text(encoding="utf-8"))
    print("| trial | accuracy | AUROC | cross-entropy | pointing | processor seconds |\n|---|--:|--:|--:|--:|--:|")
    for name in options.trial or trials["trials"]:
        recipe = recipe_of(trials, name, options.seed)
        all_data = open_training_data(Manifest.open(options.data), recipe, options.out / "cache", SilentProgress())
        data = folded(all_data, options.folds, options.fold)
        run = options.out / f"{options.data.name}_{options.folds}_{options.fold}_{name}_{options.seed}"
        variation = variation_of(trials, name)
        with variations.apply_variation(variation, recipe, data):
            row = run_trial(name, recipe, data, run, resume=variation is None)  # a checkpoint does not store the variation
        point = f"{row['pointing']:.3f}" if "pointing" in row else "–"
        seconds = "–" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.0f}"
        print(f"| {name} | {row['accuracy']:.3f} | {row['auroc']:.4f} | {row['loss']:.3f} | {point} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
