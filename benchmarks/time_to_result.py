"""Compares the accuracy of reslink and four peers after the same training time, each from scratch.

Run: python benchmarks/time_to_result.py run DATA --out RESULTS.jsonl [--budgets 1 3 10] [--seeds 0 1 2] [--only reslink]
     python benchmarks/time_to_result.py rates RESULTS.jsonl          learning rates of the peers
     python benchmarks/time_to_result.py table RESULTS.jsonl [--plot FOLDER] [--level 0.95]

Budget: "N minutes on C cores" is N · 60 · C seconds of processor time of training on one thread (--cores, 2 by
default), because processor time can be compared on a machine with other jobs. The learning rate is a function of the
used share of the budget (cosine after a warm-up), so every run completes its schedule. Reading the images (once, into
the cache), evaluation, and the one-time work of the first step are not counted.

The same for all networks: images, cache, groups, split (data.split_seed = 0), input size, order, augmentation, loss,
bf16 autocast where the processor supports it, channels-last, machine. Peers: AdamW with weight decay 0.05, warm-up of
5 %, gradients clipped to norm 1, batch 16, and the moving average of the weights that reslink has. For a peer the last
weights and their moving average are compared, each with its own BatchNorm statistics and with statistics re-estimated
on 256 training images; the best validation AUROC is used. reslink uses its recipe and the weights that `reslink train`
would export.

Metrics: the test split is evaluated once at the end, with 95 % intervals over groups. Curves, the choice of weights,
the learning rates of the peers and the time to a level use the validation split. Research use only.

Runs that are already in the file are skipped. Two processes may write to one file.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import budget
import budget_tables
import peers
import torch

from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError, UsageError
from reslink.training.data import TrainingData, open_training_data
from reslink.training.monitoring.progress import SilentProgress
from reslink.training.recipe.recipe import Recipe, load_recipe
from reslink.training.recipe.schema import OptimizerSettings
from reslink.training.seeding import torch_seed

OURS = budget_tables.OURS
NETWORKS = (OURS, *peers.PEERS)
RECIPE = "small_20"
MOMENTS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.7)
Row = dict[str, Any]


def own_recipe(recipe: str, seed: int, size: int | None) -> Recipe:
    """Returns the recipe of reslink with the split that all runs share."""
    changes = ["data.split_seed=0", "data.allow_conflicts=true", f"seed={seed}", "trainer.device=cpu"]
    return load_recipe(recipe, changes + ([] if size is None else [f"preprocess.size={size}"]))


def peer_recipe(ours: Recipe, lr: float) -> Recipe:
    """Returns the recipe of a peer: images, augmentation, loss, precision and moving average of reslink, and AdamW."""
    plain = Recipe(seed=ours.seed, data=ours.data, preprocess=ours.preprocess, augment=ours.augment)
    optimizer = OptimizerSettings(name="adamw", lr=lr, weight_decay=peers.WEIGHT_DECAY, warmup=peers.WARMUP)
    trainer = {name: getattr(ours.trainer, name) for name in ("precision", "ema", "device")}
    return plain.model_copy(
        update={
            "optimizer": optimizer,
            "loss": ours.loss.model_copy(update={"mixup": 0.0}),
            "trainer": plain.trainer.model_copy(update={"batch_size": 16, **trainer}),
        }
    )


def make_trainee(name: str, recipe: Recipe, training_data: TrainingData) -> budget.Trainee:
    """Returns a network ready for training.

    Args:
        name: One of ``NETWORKS``.
        recipe: Recipe of the network.
        training_data: The data.
    """
    if name == OURS:
        return budget.Trainee(recipe, training_data)
    classes, images = len(training_data.manifest.labels), recipe.preprocess
    network = peers.build_peer(name, images.channels, classes, images.size, torch_seed(recipe.seed, "weights"))
    return budget.Trainee(recipe, training_data, network, lambda moved: peers.adamw(moved, recipe.optimizer.lr), several=True)


def identity(name: str, recipe: Recipe, training_data: TrainingData, minutes: float, cores: float) -> Row:
    """Returns the fields that identify a run in the results file."""
    return {
        "data": Path(training_data.manifest.root).name,
        "network": name,
        "minutes": minutes,
        "cores": cores,
        "seed": recipe.seed,
        "size": recipe.preprocess.size,
        "lr": recipe.optimizer.lr,
        "data_digest": training_data.digest,
        "recipe_digest": recipe.digest(),
    }


def run(who: Row, recipe: Recipe, training_data: TrainingData, moments: Sequence[float]) -> Row:
    """Trains one network until its budget is used up and returns its row."""
    trainee, start = make_trainee(who["network"], recipe, training_data), time.perf_counter()
    clock = budget.ProcessorTime(who["minutes"] * 60 * who["cores"])
    seen: list[budget.Moment] = []
    trainee.train(clock, moments, seen.append)
    seen.append(trainee.evaluate(clock, last=True))
    return {
        **who,
        "parameters": trainee.parameters,
        "seconds": round(clock.used, 2),
        "wall_seconds": round(time.perf_counter() - start, 1),
        "images": trainee.images,
        "skipped_steps": trainee.skipped,
        "weights": seen[-1].weights,
        "precision": trainee.accelerator.mixed_precision,
        "torch": torch.__version__,
        "curve": [budget.moment_row(moment) for moment in seen],
        **budget.test_metrics(trainee),
    }


def all_runs(options: argparse.Namespace) -> None:
    """Trains the missing runs, shortest budget first."""
    start = time.perf_counter()
    first = own_recipe(options.recipe, 0, options.size)
    training_data = open_training_data(Manifest.open(options.data), first, options.cache, SilentProgress())
    counts = {split: len(training_data.indices(split)) for split in ("train", "validation", "test")}
    print(f"{options.data.name}: {counts}; opened in {time.perf_counter() - start:.0f} s, with decoding of new images")
    print(f"1 minute on {options.cores:g} cores is {60 * options.cores:g} s of processor time of training on one thread")
    for minutes in sorted(options.budgets):
        for seed in options.seeds:
            for name in options.only:
                _run_if_missing(options, training_data, name, minutes, seed)


def _run_if_missing(options: argparse.Namespace, training_data: TrainingData, name: str, minutes: float, seed: int) -> None:
    rows = budget_tables.read(options.out)
    recipe = own_recipe(options.recipe, seed, options.size)
    if name != OURS:
        recipe = peer_recipe(recipe, _rate(options.lr, rows, name))
    who = identity(name, recipe, training_data, minutes, options.cores)
    label = f"{who['data']} {name} {minutes:g} min, seed {seed}, lr {recipe.optimizer.lr:g}"
    if any(all(row.get(key) == value for key, value in who.items()) for row in rows):
        print(f"{label}: already in the file", flush=True)
        return
    row = run(who, recipe, training_data, options.moments if minutes == max(options.budgets) else ())
    budget_tables.append(options.out, row)
    metrics = ", ".join(f"{key} {budget_tables.interval([row], key)}" for key in ("auroc", "accuracy"))
    print(f"{label}: {metrics}; {row['images']} images in {row['seconds']:.0f} s; {row['weights']}", flush=True)


def _rate(rate: float | None, rows: Sequence[Row], name: str) -> float:
    if rate is not None:
        return rate
    best = budget_tables.best_rates(rows)
    if name not in best:
        raise UsageError(
            f"--lr best was given, but no learning rate of {name} has been tried",
            "The best rate is chosen from the runs in the file of --out",
            f"Run --budgets 1 --only {name} with several rates first, such as --lr 3e-4, --lr 1e-3 and --lr 3e-3",
        )
    return best[name]


def _positive(text: str) -> float:
    """Parses a number above 0."""
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError
    return number


def _wanted_rate(text: str) -> float | None:
    """Parses a learning rate; None means the best."""
    return None if text == "best" else _positive(text)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = main.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("run", help="train the missing runs")
    train.add_argument("data", type=Path, help="data set")
    train.add_argument("--out", type=Path, required=True, help="results file, one JSON object per line")
    train.add_argument("--recipe", default=RECIPE, help="recipe of reslink: a YAML file or the name of a published recipe")
    train.add_argument("--budgets", type=_positive, nargs="+", default=[1.0, 3.0, 10.0], help="budgets in minutes")
    train.add_argument("--cores", type=_positive, default=2.0, help="cores of a budget")
    train.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds to train")
    train.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to train")
    train.add_argument("--size", type=int, help="side of the input of all networks in pixels; that of the recipe by default")
    train.add_argument(
        "--lr", type=_wanted_rate, default=peers.LEARNING_RATE, help="learning rate of the peers, or best (see rates)"
    )
    train.add_argument(
        "--moments",
        type=float,
        nargs="*",
        default=list(MOMENTS),
        help="shares of the longest budget at which the validation split is evaluated",
    )
    train.add_argument("--cache", type=Path, default=Path("runs/cache"), help="cache of decoded images")
    for verb, about in (("rates", "print the learning rates of the peers"), ("table", "print tables and plot curves")):
        other = verbs.add_parser(verb, help=about)
        other.add_argument("results", type=Path, help="results file")
    other.add_argument("--plot", type=Path, help="folder of the plots")
    other.add_argument("--level", type=float, default=0.95, help="validation AUROC for the column of the time to it")
    return main


def _show(options: argparse.Namespace) -> None:
    """Prints the tables of a results file, and plots them with --plot."""
    rows = budget_tables.read(options.results)
    if not rows:
        raise UsageError(
            f"{options.results} holds no results", "The file is that of run --out", "Check the path, or start with run"
        )
    if options.verb == "rates":
        print("\n".join(budget_tables.rate_lines(rows)))
        return
    print("\n".join(budget_tables.all_tables(rows, options.level)))
    if options.plot:
        budget_tables.plots(rows, options.plot)


def main() -> None:
    """Trains, or prints results."""
    options = parser().parse_args()
    torch.set_num_threads(1)
    try:
        if options.verb == "run":
            all_runs(options)
        else:
            _show(options)
    except ReslinkError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
