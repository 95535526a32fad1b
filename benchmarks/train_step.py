"""Images per second of one training step: ResLink against MONAI's DenseNet121, same batch, precision and machine.

Run: python benchmarks/train_step.py [--batch-size 16] [--rounds 5] [--threads 2] [--data ../shared/data/ct]

Each round times every network once, in turn, so that a slow moment of the machine hits all alike; the ratio is the median over
rounds of (time of DenseNet121) / (time of the network) in the same round.

With --data each network is then trained on that data set for --epochs epochs in bf16 with the same images, split, order,
augmentation, AdamW and cosine schedule, and ours also with the optimizer of the default recipe; the AUROC is of the test part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.networks.nets import DenseNet121
from torch import nn

from reslink.networks.reslink import VARIANTS, ResLink, build
from reslink.training import optim
from reslink.training.recipe import load_recipe

PEER = "DenseNet121 (MONAI)"


def networks() -> dict[str, nn.Module]:
    """Returns the networks to time, all in channels-last layout, which is the quicker one for each on the machines tried."""
    ours = {name: build(config, 0).to(memory_format=torch.channels_last) for name, config in VARIANTS.items()}
    return {PEER: DenseNet121(spatial_dims=2, in_channels=3, out_channels=2).to(memory_format=torch.channels_last), **ours}


def training_step(network: nn.Module, images: torch.Tensor, targets: torch.Tensor, bf16: bool) -> Callable[[], None]:
    """Returns a function that does one whole step: forward, loss, backward, AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = nn.functional.cross_entropy(network(images), targets)
        loss.backward()
        optimizer.step()

    return step


def measure(batch_size: int, rounds: int, *, bf16: bool) -> dict[str, dict[str, float]]:
    """Times every network once a round and returns images per second and the ratio to the peer."""
    images = torch.randn(batch_size, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 2, (batch_size,))
    steps = {name: training_step(network.train(), images, targets, bf16) for name, network in networks().items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if index:  # the first round only warms up
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {
            "images_per_second": batch_size / statistics.median(times),
            "ratio": statistics.median(p / t for p, t in zip(seconds[PEER], times, strict=True)),
        }
        for name, times in seconds.items()
    }


def main() -> None:
    """Prints a table and, with --json, an object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, help="data set for the comparison of AUROC")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="folder of decoded images")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {
        precision: measure(options.batch_size, options.rounds, bf16=precision == "bf16") for precision in ("fp32", "bf16")
    }
    if options.json:
        print(json.dumps(results))
        return
    _print_steps(results, options.batch_size, options.threads)
    if options.data:
        compare_auroc(options.data, options.cache, options.epochs)


def compare_auroc(data: Path, cache: Path, epochs: int) -> None:
    """Trains all networks on a data set and prints their AUROC."""
    import five_epochs

    recipe = load_recipe(None, [f"trainer.epochs={epochs}"])
    found = five_epochs.materials(data, cache, recipe)
    print(f"{data.name}: {epochs} epochs, {len(found.indices('train'))} training and {len(found.indices('test'))} test images")
    runs = [(name, "adamw") for name in VARIANTS] + [(name, recipe.optimizer.name) for name in VARIANTS] + [(PEER, "adamw")]
    for name, optimizer in dict.fromkeys(runs):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            network = networks()[name]
        settings = recipe.optimizer.model_copy(update={"name": optimizer})
        if isinstance(network, ResLink):
            moved = optim.make_optimizer(network, settings)
        else:
            moved = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        print(f"{name}, {optimizer}", flush=True)
        auroc, seconds = five_epochs.auroc(network, moved, found, recipe)
        print(f"{name:22s} {optimizer:6s} AUROC {auroc:.4f}  {seconds:.0f} s", flush=True)


def _print_steps(results: dict[str, dict[str, dict[str, float]]], batch_size: int, threads: int) -> None:
    print(f"training step at 224×224×3, batch {batch_size}, {threads} threads, channels-last")
    for precision, rows in results.items():
        for name, row in rows.items():
            print(f"{precision}  {name:22s} {row['images_per_second']:7.1f} images/s   × {row['ratio']:.1f}")


if __name__ == "__main__":
    main()
