"""One training step beside the networks of other people: images per second, peak memory, share of the machine's limit.

Run: python benchmarks/train_step.py [--batch-size 16] [--rounds 5] [--threads 2] [--size 224] [--compile] [--only ...]
     python benchmarks/train_step.py --data DATA [--epochs 5]

A step is forward, loss, backward, AdamW. Each round times every network once, in turn, and then a matrix product, so that a
slow moment of the machine hits all alike; a ratio is the median over rounds of (time of DenseNet121) / (time of the network)
in the same round. Seconds are of processor time with one thread, of the wall clock with several. The limit is the throughput
of a product of two square matrices in the same precision and round; the share counts convolutions and matrix products of a
step (torch.utils.flop_counter). Memory is how far the resident memory of a process of its own rises from before the network is
built to its highest in the steps after the first; compiled, the compiler's own counts too.

With --compile each network is also timed under torch.compile, which needs a C++ compiler; compiling is not part of a step.

With --data each network is then trained on that data set for --epochs epochs in bf16 with the same images, split, order,
augmentation, AdamW and cosine schedule, and ours also with the optimizer of the default recipe; the AUROC is of the test part.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peers
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reslink.networks.reslink import VARIANTS, ResLink, build
from reslink.training import optim
from reslink.training.recipe import load_recipe

PEER = "densenet121"
NETWORKS = (PEER, *(name for name in peers.PEERS if name != PEER), *VARIANTS)
MATRIX = 1536
"""Side of the matrices whose product gives the limit; three of them are far larger than a cache of the second level."""
Row = dict[str, Any]


def network(name: str, size: int) -> nn.Module:
    """Returns a network in channels-last layout, which is the quicker one for each on the machines tried."""
    made = build(VARIANTS[name], 0) if name in VARIANTS else peers.build_peer(name, 3, 2, size)
    return made.to(memory_format=torch.channels_last).train()


def batch(batch_size: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images (B, 3, size, size) and classes (B,)."""
    images = torch.randn(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(0, 2, (batch_size,))


def training_step(
    trained: nn.Module, images: torch.Tensor, targets: torch.Tensor, *, bf16: bool, compiled: bool = False
) -> Callable[[], None]:
    """Returns a function that does one whole step: forward, loss, backward, AdamW."""
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3, fused=True)
    model = torch.compile(trained) if compiled else trained

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()

    return step


def step_flops(counted: nn.Module, batch_size: int, size: int) -> int:
    """Returns the FLOPs of convolutions and matrix products of a step, a multiplication and an addition as two."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        logits = copy.deepcopy(counted).to("meta")(torch.empty(batch_size, 3, size, size))
        logits.sum().backward()
    return int(counter.get_total_flops())


def product(*, bf16: bool) -> Callable[[], None]:
    """Returns a function that multiplies two square matrices of side ``MATRIX``."""
    a = torch.randn(MATRIX, MATRIX, dtype=torch.bfloat16 if bf16 else torch.float32)
    out = torch.empty_like(a)

    def multiply() -> None:
        torch.mm(a, a, out=out)

    return multiply


def measure(names: Sequence[str], batch_size: int, rounds: int, size: int, *, bf16: bool, compiled: bool) -> dict[str, Row]:
    """Times every network once a round.

    Returns:
        For each network images per second, the ratio to the peer and the share of the limit; for ``limit`` GFLOP/s.
    """
    images, targets = batch(batch_size, size)
    made = {name: network(name, size) for name in names}
    flops = {name: step_flops(one, batch_size, size) for name, one in made.items()}
    steps = {name: training_step(one, images, targets, bf16=bf16, compiled=compiled) for name, one in made.items()}
    steps["limit"] = product(bf16=bf16)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    first: dict[str, float] = {}
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for index in range(rounds + 2):
        for name, step in steps.items():
            start = now()
            step()
            taken = now() - start
            first.setdefault(name, taken)
            if index > 1:  # the first two rounds only warm up, and compile
                seconds[name].append(taken)
    limit = [2 * MATRIX**3 / taken for taken in seconds.pop("limit")]
    rows: dict[str, Row] = {"limit": {"gflops": statistics.median(limit) / 1e9}}
    for name, times in seconds.items():
        rows[name] = {
            "images_per_second": batch_size / statistics.median(times),
            "ratio": statistics.median(p / t for p, t in zip(seconds[PEER], times, strict=True)) if PEER in seconds else None,
            "share_of_limit": statistics.median(flops[name] / t / most for t, most in zip(times, limit, strict=True)),
            "gflop_a_step": flops[name] / 1e9,
            "first_step_seconds": first[name],
        }
    return rows


def _resident(field: str) -> float:
    """Returns a field of this process's status in MiB: VmRSS is what is held now, VmHWM the most that was held."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise SystemExit("Peak memory is read from /proc/self/status, which this system does not have; leave --memory out")
    return int(re.search(rf"{field}:\s+(\d+)", status.read_text()).group(1)) / 1024


def peak_memory(name: str, batch_size: int, size: int, *, bf16: bool, compiled: bool) -> float:
    """Returns how far a training of three steps raises the memory of this process, in MiB; meant for a fresh process."""
    images, targets = batch(batch_size, size)
    before = _resident("VmRSS")
    step = training_step(network(name, size), images, targets, bf16=bf16, compiled=compiled)
    step()
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew: the first step also loads code
    step()
    step()
    return _resident("VmHWM") - before


def peak_memory_of_child(name: str, options: argparse.Namespace, *, bf16: bool, compiled: bool) -> float:
    """Returns ``peak_memory`` of a process of its own."""
    command = [sys.executable, __file__, "--peak-of", name, "--batch-size", options.batch_size, "--size", options.size]
    command += ["--threads", options.threads, "--precisions", "bf16" if bf16 else "fp32", *(["--compile"] if compiled else [])]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def compiler() -> str | None:
    """Returns the C++ compiler that torch.compile would use, None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def options_of() -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--size", type=int, default=224, help="side of the input")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="time compiled networks too")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, help="data set for the comparison of AUROC")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="folder of decoded images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--peak-of", choices=NETWORKS, help=argparse.SUPPRESS)  # what a child process is asked
    return parser.parse_args()


def main() -> None:
    """Prints a table and, with --json, an object."""
    options = options_of()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        bf16 = options.precisions == ["bf16"]
        print(peak_memory(options.peak_of, options.batch_size, options.size, bf16=bf16, compiled=options.compile))
        return
    modes = [False, True] if options.compile and compiler() else [False]
    results = {}
    for precision in options.precisions:
        for compiled in modes:
            found = all_figures(options, bf16=precision == "bf16", compiled=compiled)
            results[f"{precision} {'compiled' if compiled else 'eager'}"] = found
    if options.json:
        print(json.dumps(results))
        return
    print("\n".join(table(results, options)))
    if options.compile and not compiler():
        print("Not compiled: torch.compile needs a C++ compiler, and neither $CXX, g++ nor clang++ is there.")
    if options.data:
        compare_auroc(options.data, options.cache, options.epochs)


def all_figures(options: argparse.Namespace, *, bf16: bool, compiled: bool) -> dict[str, Row]:
    """Returns what ``measure`` does, and the peak memory of each network."""
    found = measure(options.only, options.batch_size, options.rounds, options.size, bf16=bf16, compiled=compiled)
    torch.compiler.reset()
    for name in [] if options.no_memory else options.only:
        found[name]["peak_mib"] = peak_memory_of_child(name, options, bf16=bf16, compiled=compiled)
    return found


def table(results: dict[str, dict[str, Row]], options: argparse.Namespace) -> list[str]:
    """Returns the figures as Markdown, a table for each precision and mode."""
    shape = f"{options.size}×{options.size}×3, batch {options.batch_size}"
    lines = [f"training step at {shape}, {options.threads} threads, channels-last"]
    for mode, rows in results.items():
        lines += [
            "",
            f"{mode}; limit of matrix products {rows['limit']['gflops']:.0f} GFLOP/s",
            "",
            "| network | images/s | × DenseNet121 | share of the limit | GFLOP a step | peak MiB | first step, s |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for name, row in rows.items():
            if name == "limit":
                continue
            ratio = "–" if row["ratio"] is None else f"{row['ratio']:.1f}"
            peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else "–"
            cells = [
                name,
                f"{row['images_per_second']:.1f}",
                ratio,
                f"{row['share_of_limit']:.2f}",
                f"{row['gflop_a_step']:.1f}",
            ]
            lines.append("| " + " | ".join([*cells, peak, f"{row['first_step_seconds']:.1f}"]) + " |")
    return lines


def compare_auroc(data: Path, cache: Path, epochs: int) -> None:
    """Trains all networks on a data set and prints their AUROC."""
    import budget

    from reslink.datasets.manifest import Manifest
    from reslink.training.materials import open_materials
    from reslink.training.progress import Silent

    recipe = load_recipe(None, [f"trainer.epochs={epochs}", "trainer.precision=bf16", "trainer.device=cpu"])
    found = open_materials(Manifest.open(data), recipe, cache, Silent())
    print(f"{data.name}: {epochs} epochs, {len(found.indices('train'))} training and {len(found.indices('test'))} test images")
    runs = [(name, "adamw") for name in VARIANTS] + [(name, recipe.optimizer.name) for name in VARIANTS]
    for name, optimizer in dict.fromkeys([*runs, *((peer, "adamw") for peer in peers.PEERS)]):
        settings = recipe.optimizer.model_copy(update={"name": optimizer})

        def moved(made: nn.Module, settings: Any = settings) -> torch.optim.Optimizer:
            if isinstance(made, ResLink):
                return optim.make_optimizer(made, settings)
            return peers.adamw(made, settings.lr, settings.weight_decay)

        trainee = budget.Trainee(recipe, found, network(name, recipe.preprocess.size), moved)
        clock = budget.Steps(epochs * trainee.steps_an_epoch())
        trainee.train(clock)
        trainee.look(clock, last=True)
        auroc = budget.test_figures(trainee)["test"]["auroc"]["estimate"]
        print(f"{name:22s} {optimizer:6s} AUROC {auroc:.4f}  {clock.used:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
