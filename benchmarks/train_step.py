"""One training step beside the networks of other people: images per second, peak memory, share of the machine's limit.

Run: python benchmarks/train_step.py [--batch-size 16] [--rounds 5] [--threads 2] [--size 224] [--compile] [--only ...]
     python benchmarks/train_step.py --device cuda --batch-size 256 --compile [--predict]
     python benchmarks/train_step.py --data DATA [--epochs 5]

A step is forward, loss, backward, AdamW. Each round times every network once, in turn, and then a matrix product, so that a
slow moment of the machine hits all alike; a ratio is the median over rounds of (time of DenseNet121) / (time of the network)
in the same round. Seconds are of processor time with one thread, of the wall clock with several. The limit is the throughput
of a product of two square matrices in the same precision and round; the share counts convolutions and matrix products of a
step (torch.utils.flop_counter). Memory is how far the resident memory of a process of its own rises from before the network is
built to its highest in the steps after the first; compiled, the compiler's own counts too.

With --predict a step is a forward pass in eval mode. On a CUDA device seconds are of the wall clock, each step waited for, and
memory is the most that torch held there.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reslink.networks.reslink import VARIANTS, ResLink, build
from reslink.training.optim import build as optim
from reslink.training.recipe.recipe import load_recipe

PEER = "densenet121"
NETWORKS = (PEER, *(name for name in peers.PEERS if name != PEER), *VARIANTS)
MATRIX = {"cpu": 1536, "cuda": 8192}
"""Side of the matrices whose product gives the limit; three of them are far larger than a cache of the second level."""
Row = dict[str, Any]


@dataclass(frozen=True)
class How:
    """How a step is made.

    Attributes:
        batch_size: Images of a step.
        size: Side of the input.
        bf16: Whether under autocast.
        compiled: Whether by ``torch.compile``.
        device: Where.
        predict: Whether a forward pass alone.
    """

    batch_size: int
    size: int
    bf16: bool
    compiled: bool
    device: str = "cpu"
    predict: bool = False


def network(name: str, size: int) -> nn.Module:
    """Returns a network in channels-last layout, which is the quicker one for each on the machines tried."""
    made = build(VARIANTS[name], 0) if name in VARIANTS else peers.build_peer(name, 3, 2, size)
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotation lacks it
    return made.train()


def batch(how: How) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images (B, 3, size, size) and classes (B,)."""
    images = torch.randn(how.batch_size, 3, how.size, how.size).contiguous(memory_format=torch.channels_last)
    return images.to(how.device), torch.randint(0, 2, (how.batch_size,)).to(how.device)


def one_step(network: nn.Module, images: torch.Tensor, targets: torch.Tensor, how: How) -> Callable[[], None]:
    """Returns a function that does one whole step: forward, loss, backward, AdamW; with ``predict`` the forward pass."""
    placed = network.to(how.device).train(not how.predict)
    optimizer = torch.optim.AdamW(placed.parameters(), lr=1e-3, fused=True)
    model = torch.compile(placed) if how.compiled else placed

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(how.device, torch.bfloat16, enabled=how.bf16):
            loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
        optimizer.step()

    def predict() -> None:
        with torch.inference_mode(), torch.autocast(how.device, torch.bfloat16, enabled=how.bf16):
            model(images)

    return predict if how.predict else train


def step_flops(counted: nn.Module, how: How) -> int:
    """Returns the FLOPs of convolutions and matrix products of a step, a multiplication and an addition as two."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        logits = copy.deepcopy(counted).train(not how.predict).to("meta")(torch.empty(how.batch_size, 3, how.size, how.size))
        if not how.predict:
            logits.sum().backward()
    return int(counter.get_total_flops())


def product(how: How) -> Callable[[], None]:
    """Returns a function that multiplies two square matrices of the side in ``MATRIX``."""
    side = MATRIX[how.device]
    a = torch.randn(side, side, dtype=torch.bfloat16 if how.bf16 else torch.float32, device=how.device)
    out = torch.empty_like(a)

    def multiply() -> None:
        torch.mm(a, a, out=out)

    return multiply


def seconds_of(step: Callable[[], None], device: str) -> float:
    """Returns what a step takes: processor time with one thread, else of the wall clock; on CUDA until it is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    now = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = now()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def measure(names: Sequence[str], rounds: int, how: How) -> dict[str, Row]:
    """Times every network once a round.

    Returns:
        For each network images per second, the ratio to the peer and the share of the limit; for ``limit`` GFLOP/s.
    """
    images, targets = batch(how)
    made = {name: network(name, how.size) for name in names}
    flops = {name: step_flops(one, how) for name, one in made.items()}
    steps = {name: one_step(one, images, targets, how) for name, one in made.items()} | {"limit": product(how)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    first: dict[str, float] = {}
    for index in range(rounds + 2):
        for name, step in steps.items():
            taken = seconds_of(step, how.device)
            first.setdefault(name, taken)
            if index > 1:  # the first two rounds only warm up, and compile
                seconds[name].append(taken)
    limit = [2 * MATRIX[how.device] ** 3 / taken for taken in seconds.pop("limit")]
    rows: dict[str, Row] = {"limit": {"gflops": statistics.median(limit) / 1e9}}
    for name, times in seconds.items():
        rows[name] = {
            "images_per_second": how.batch_size / statistics.median(times),
            "ratio": statistics.median(p / t for p, t in zip(seconds[PEER], times, strict=True)) if PEER in seconds else None,
            "share_of_limit": statistics.median(flops[name] / t / most for t, most in zip(times, limit, strict=True)),
            "gflop_a_step": flops[name] / 1e9,
            "first_step_seconds": first[name],
        }
    return rows


def _resident(field: str) -> float:
    """Returns a field of this process's status in MiB: VmRSS is what is held now, VmHWM the most that was held."""
    status = Path("/proc/self/status")
    found = re.search(rf"^{field}:\s+(\d+)", status.read_text() if status.exists() else "", re.MULTILINE)
    if found is None:
        raise SystemExit(f"Peak memory is {field} of /proc/self/status, which this system does not have; give --no-memory")
    return int(found.group(1)) / 1024


def peak_memory(name: str, how: How) -> float:
    """Returns how far three steps raise the memory of this process, or of the device, in MiB; meant for a fresh process."""
    images, targets = batch(how)
    before = _resident("VmRSS") if how.device == "cpu" else 0.0
    step = one_step(network(name, how.size), images, targets, how)
    step()
    if how.device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew: the first step also loads code
    step()
    step()
    return _resident("VmHWM") - before if how.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20


def peak_memory_of_child(name: str, threads: int, how: How) -> float:
    """Returns ``peak_memory`` of a process of its own."""
    command = [sys.executable, __file__, "--peak-of", name, "--batch-size", how.batch_size, "--size", how.size]
    command += ["--threads", threads, "--precisions", "bf16" if how.bf16 else "fp32", "--device", how.device]
    command += ["--compile"] * how.compiled + ["--predict"] * how.predict
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"The process that measures the memory of {name} ended with {done.returncode}")
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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--predict", action="store_true", help="time forward passes in place of training steps")
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
        how = how_of(options, bf16=options.precisions == ["bf16"], compiled=options.compile)
        print(peak_memory(options.peak_of, how))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here. Leave --device out.")
    results = {}
    for precision in options.precisions:
        for compiled in [False, True] if options.compile and compiler() else [False]:
            found = all_figures(options, how_of(options, bf16=precision == "bf16", compiled=compiled))
            results[f"{precision} {'compiled' if compiled else 'eager'}"] = found
    if options.json:
        print(json.dumps(results))
        return
    print("\n".join(table(results, options)))
    if options.compile and not compiler():
        print("Not compiled: torch.compile needs a C++ compiler, and neither $CXX, g++ nor clang++ is there.")
    if options.data:
        compare_auroc(options.data, options.cache, options.epochs)


def how_of(options: argparse.Namespace, *, bf16: bool, compiled: bool) -> How:
    """Returns how a step is made, by the options."""
    return How(options.batch_size, options.size, bf16, compiled, options.device, options.predict)


def all_figures(options: argparse.Namespace, how: How) -> dict[str, Row]:
    """Returns what ``measure`` does, and the peak memory of each network."""
    found = measure(options.only, options.rounds, how)
    torch.compiler.reset()
    for name in [] if options.no_memory else options.only:
        found[name]["peak_mib"] = peak_memory_of_child(name, options.threads, how)
    return found


def table(results: dict[str, dict[str, Row]], options: argparse.Namespace) -> list[str]:
    """Returns the figures as Markdown, a table for each precision and mode."""
    shape = f"{options.size}×{options.size}×3, batch {options.batch_size}"
    what = "forward pass" if options.predict else "training step"
    where = f"{options.threads} threads" if options.device == "cpu" else torch.cuda.get_device_name()
    lines = [f"{what} at {shape}, {where}, channels-last"]
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
    from reslink.training.data import open_materials
    from reslink.training.monitoring.progress import Silent

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
