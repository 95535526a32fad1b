"""What each network reaches in the same training time: ours and four peers, each from scratch, on held-out images.

Run: python benchmarks/time_to_result.py run DATA --out RESULTS.jsonl [--budgets 1 3 10] [--seeds 0 1 2] [--only reslink]
     python benchmarks/time_to_result.py rates RESULTS.jsonl          learning rates that were tried for the peers
     python benchmarks/time_to_result.py table RESULTS.jsonl [--plot FOLDER] [--level 0.95]

The budget. "N minutes on C cores" is N · 60 · C seconds of processor time of training on one thread (--cores, by default 2): on
a machine where other jobs run, that is what can be compared. The learning rate is a function of the share of the budget that is
gone (cosine after a warm-up), so that every run ends with its schedule and no number of steps is guessed. Reading the images
(once, into the cache), judging, and what only the first step of a process does (on a copy of the network) are not counted.

Same for all. Images, cache, groups, split (data.split_seed = 0), input size, order, augmentation, loss, bf16 autocast where
the processor computes in it, channels-last, machine. Peers: AdamW with weight decay 0.05, warm-up of 5 %, gradients clipped to
norm 1, batch 16, the moving average of the weights that ours has. Of the last weights and their moving average, each with its
own BatchNorm statistics and with statistics estimated anew on 256 training images, a peer is judged by those of the highest
AUROC on the validation part; ours has its recipe, and the weights that `reslink train` would export.

Figures. Test part, once, at the end: AUROC and accuracy with 95 % intervals over groups. Curves, the choice of weights and of
the peers' learning rate, and the time to a level: validation part, which is not quoted otherwise. Research use only.

A run that stands in the file already is not made again; two processes may write to one file.
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
from reslink.training.data import Materials, open_materials
from reslink.training.monitoring.progress import Silent
from reslink.training.recipe.recipe import Recipe, load_recipe
from reslink.training.recipe.schema import OptimizerSettings
from reslink.training.seeding import torch_seed

OURS = budget_tables.OURS
NETWORKS = (OURS, *peers.PEERS)
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "small_20.yaml"
MOMENTS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.7)
Row = dict[str, Any]


def own_recipe(path: Path, seed: int, size: int | None) -> Recipe:
    """Returns our recipe with the split that all runs share."""
    changes = ["data.split_seed=0", f"seed={seed}", "trainer.device=cpu"]
    return load_recipe(path, changes + ([] if size is None else [f"preprocess.size={size}"]))


def peer_recipe(ours: Recipe, lr: float) -> Recipe:
    """Returns the recipe of a peer: images, augmentation, loss, precision and moving average of ours, and AdamW."""
    plain = Recipe(seed=ours.seed, data=ours.data, preprocess=ours.preprocess, augment=ours.augment)
    optimizer = OptimizerSettings(name="adamw", lr=lr, weight_decay=peers.WEIGHT_DECAY, warmup=peers.WARMUP)
    kept = {name: getattr(ours.trainer, name) for name in ("precision", "ema", "device")}
    return plain.model_copy(
        update={
            "optimizer": optimizer,
            "loss": ours.loss.model_copy(update={"mixup": 0.0}),
            "trainer": plain.trainer.model_copy(update={"batch_size": 16, **kept}),
        }
    )


def make(name: str, recipe: Recipe, materials: Materials) -> budget.Trainee:
    """Returns a network that is ready to be trained.

    Args:
        name: One of ``NETWORKS``.
        recipe: Its recipe.
        materials: The data.
    """
    if name == OURS:
        return budget.Trainee(recipe, materials)
    classes, images = len(materials.manifest.labels), recipe.preprocess
    network = peers.build_peer(name, images.channels, classes, images.size, torch_seed(recipe.seed, "weights"))
    return budget.Trainee(recipe, materials, network, lambda moved: peers.adamw(moved, recipe.optimizer.lr), several=True)


def identity(name: str, recipe: Recipe, materials: Materials, minutes: float, cores: float) -> Row:
    """Returns what a run is told by in the file of results."""
    return {
        "data": Path(materials.manifest.root).name,
        "network": name,
        "minutes": minutes,
        "cores": cores,
        "seed": recipe.seed,
        "size": recipe.preprocess.size,
        "lr": recipe.optimizer.lr,
        "data_digest": materials.digest,
        "recipe_digest": recipe.digest(),
    }


def run(who: Row, recipe: Recipe, materials: Materials, moments: Sequence[float]) -> Row:
    """Trains one network until its budget is used up and returns what came of it."""
    trainee, start = make(who["network"], recipe, materials), time.perf_counter()
    clock = budget.ProcessorTime(who["minutes"] * 60 * who["cores"])
    seen: list[budget.Moment] = []
    trainee.train(clock, moments, seen.append)
    seen.append(trainee.look(clock, last=True))
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
        **budget.test_figures(trainee),
    }


def all_runs(options: argparse.Namespace) -> None:
    """Makes the runs that are missing, those of the shortest budget first."""
    start = time.perf_counter()
    first = own_recipe(options.recipe, 0, options.size)
    materials = open_materials(Manifest.open(options.data), first, options.cache, Silent())
    counts = {part: len(materials.indices(part)) for part in ("train", "validation", "test")}
    print(f"{options.data.name}: {counts}; opened in {time.perf_counter() - start:.0f} s, images decoded if they were not yet")
    print(f"1 minute on {options.cores:g} cores is {60 * options.cores:g} s of processor time of training on one thread")
    for minutes in sorted(options.budgets):
        for seed in options.seeds:
            for name in options.only:
                _run_if_missing(options, materials, name, minutes, seed)


def _run_if_missing(options: argparse.Namespace, materials: Materials, name: str, minutes: float, seed: int) -> None:
    rows = budget_tables.read(options.out)
    recipe = own_recipe(options.recipe, seed, options.size)
    if name != OURS:
        recipe = peer_recipe(recipe, _rate(options.lr, rows, name))
    who = identity(name, recipe, materials, minutes, options.cores)
    said = f"{who['data']} {name} {minutes:g} min, seed {seed}, lr {recipe.optimizer.lr:g}"
    if any(all(row.get(key) == value for key, value in who.items()) for row in rows):
        print(f"{said}: is there already", flush=True)
        return
    row = run(who, recipe, materials, options.moments if minutes == max(options.budgets) else ())
    budget_tables.append(options.out, row)
    figures = ", ".join(f"{key} {budget_tables.interval([row], key)}" for key in ("auroc", "accuracy"))
    print(f"{said}: {figures}; {row['images']} images in {row['seconds']:.0f} s; {row['weights']}", flush=True)


def _rate(wanted: float | None, rows: Sequence[Row], name: str) -> float:
    if wanted is not None:
        return wanted
    best = budget_tables.best_rates(rows)
    if name not in best:
        raise UsageError(
            f"--lr best was given, and no learning rate of {name} has been tried",
            "The best rate is taken from the runs in the file of --out",
            f"Run --budgets 1 --only {name} with several rates first, such as --lr 3e-4, --lr 1e-3 and --lr 3e-3",
        )
    return best[name]


def _positive(text: str) -> float:
    """A number above 0, for argparse."""
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError
    return number


def _wanted_rate(text: str) -> float | None:
    """A learning rate, None for the best."""
    return None if text == "best" else _positive(text)


def parser() -> argparse.ArgumentParser:
    """Returns the options."""
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = main.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("run", help="train what is missing")
    train.add_argument("data", type=Path)
    train.add_argument("--out", type=Path, required=True, help="file of results, one JSON object a line")
    train.add_argument("--recipe", type=Path, default=RECIPE, help="ours")
    train.add_argument("--budgets", type=_positive, nargs="+", default=[1.0, 3.0, 10.0], help="minutes")
    train.add_argument("--cores", type=_positive, default=2.0)
    train.add_argument("--seeds", type=int, nargs="+", default=[0])
    train.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    train.add_argument("--size", type=int, help="side of the input of all networks; that of the recipe by default")
    train.add_argument(
        "--lr", type=_wanted_rate, default=peers.LEARNING_RATE, help="learning rate of the peers, or best: see rates"
    )
    train.add_argument("--moments", type=float, nargs="*", default=list(MOMENTS), help="shares of the longest budget")
    train.add_argument("--cache", type=Path, default=Path("runs/cache"), help="folder of decoded images")
    for verb, about in (("rates", "learning rates tried for the peers"), ("table", "tables and curves")):
        other = verbs.add_parser(verb, help=about)
        other.add_argument("results", type=Path)
    other.add_argument("--plot", type=Path, help="folder of the curves")
    other.add_argument("--level", type=float, default=0.95, help="validation AUROC whose time is asked for")
    return main


def _show(options: argparse.Namespace) -> None:
    """Prints what stands in a file of results, and draws it where asked."""
    rows = budget_tables.read(options.results)
    if not rows:
        raise UsageError(
            f"{options.results} holds no results", "It is a file that run --out wrote", "Check the path, or run first"
        )
    if options.verb == "rates":
        print("\n".join(budget_tables.rate_lines(rows)))
        return
    print("\n".join(budget_tables.all_tables(rows, options.level)))
    if options.plot:
        budget_tables.plots(rows, options.plot)


def main() -> None:
    """Trains, or prints what was found."""
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
