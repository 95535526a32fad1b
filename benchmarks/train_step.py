"""Measures one training step of reslink and its peers: images per second, peak memory, share of the machine's limit.

Run: python benchmarks/train_step.py [--batch-size 16] [--rounds 5] [--threads 2] [--size 224] [--compile] [--only ...]
     python benchmarks/train_step.py --device cuda --batch-size 256 --compile [--predict]
     python benchmarks/train_step.py --data DATA [--epochs 5]

A step is forward, loss, backward, AdamW. Each round times every network once, in turn, and then a matrix product, so
that a slow moment of the machine affects all alike. A ratio is the median over rounds of (time of DenseNet121) / (time
of the network) in the same round. Times are processor time with one thread, wall-clock time with several. The limit is
the throughput of a product of two square matrices in the same precision and round; the share counts convolutions and
matrix products of a step (torch.utils.flop_counter). Memory is the increase of the resident memory of a separate
process, from before the network is built to the peak of the steps after the first. With --compile it includes the
compiler.

With --predict a step is a forward pass in eval mode. On a CUDA device times are wall-clock times of synchronized steps,
and memory is the peak that torch allocated there.

With --compile each network is also timed under torch.compile, which needs a C++ compiler. Compilation is not part of a step.

With --data each network is then trained on that data set for --epochs epochs in bf16 with the same images, split,
order, augmentation, AdamW and cosine schedule; reslink networks also with the optimizer of the default recipe. The
AUROC is that of the test split.
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

from reslink.networks.reslink import VARIANTS, ResLink, build_network
from reslink.training.optim import build as optim
from reslink.training.recipe.recipe import load_recipe

PEER = "densenet121"
NETWORKS = (PEER, *(name for name in peers.PEERS if name != PEER), *VARIANTS)
MATRIX = {"cpu": 1536, "cuda": 8192}
"""Side of the matrices for the limit; three of them are much larger than the second-level cache."""
Row = dict[str, Any]


@dataclass(frozen=True)
class StepSettings:
    """Settings of a step.

    Attributes:
        batch_size: Images per step.
        size: Side of the input in pixels.
        bf16: Whether to use bf16 autocast.
        compiled: Whether to use ``torch.compile``.
        device: ``cpu`` or ``cuda``.
        predict: Whether a step is a forward pass only.
    """

    batch_size: int
    size: int
    bf16: bool
    compiled: bool
    device: str = "cpu"
    predict: bool = False


def network(name: str, size: int) -> nn.Module:
    """Returns a network in channels-last layout, which was the faster layout for all of them."""
    built = build_network(VARIANTS[name], 0) if name in VARIANTS else peers.build_peer(name, 3, 2, size)
    built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotation lacks it
    return built.train()


def batch(settings: StepSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images (B, 3, size, size) and classes (B,)."""
    images = torch.randn(settings.batch_size, 3, settings.size, settings.size).contiguous(memory_format=torch.channels_last)
    return images.to(settings.device), torch.randint(0, 2, (settings.batch_size,)).to(settings.device)


def one_step(network: nn.Module, images: torch.Tensor, targets: torch.Tensor, settings: StepSettings) -> Callable[[], None]:
    """Returns a function that runs one step: forward, loss, backward, AdamW; with ``predict`` the forward pass."""
    placed = network.to(settings.device).train(not settings.predict)
    optimizer = torch.optim.AdamW(placed.parameters(), lr=1e-3, fused=True)
    model = torch.compile(placed) if settings.compiled else placed

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(settings.device, torch.bfloat16, enabled=settings.bf16):
            loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
        optimizer.step()

    def predict() -> None:
        with torch.inference_mode(), torch.autocast(settings.device, torch.bfloat16, enabled=settings.bf16):
            model(images)

    return predict if settings.predict else train


def step_flops(network: nn.Module, settings: StepSettings) -> int:
    """Returns the FLOPs of convolutions and matrix products of a step; a multiply-add counts as two."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        logits = (
            copy.deepcopy(network)
            .train(not settings.predict)
            .to("meta")(torch.empty(settings.batch_size, 3, settings.size, settings.size))
        )
        if not settings.predict:
            logits.sum().backward()
    return int(counter.get_total_flops())


def product(settings: StepSettings) -> Callable[[], None]:
    """Returns a function that multiplies two square matrices of the side in ``MATRIX``."""
    side = MATRIX[settings.device]
    a = torch.randn(side, side, dtype=torch.bfloat16 if settings.bf16 else torch.float32, device=settings.device)
    out = torch.empty_like(a)

    def multiply() -> None:
        torch.mm(a, a, out=out)

    return multiply


def seconds_of(step: Callable[[], None], device: str) -> float:
    """Returns the time of a step: processor time with one thread, else wall-clock time; on CUDA synchronized."""
    if device == "cuda":
        torch.cuda.synchronize()
    now = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = now()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def measure(names: Sequence[str], rounds: int, settings: StepSettings) -> dict[str, Row]:
    """Times every network once per round.

    Returns:
        For each network images per second, the ratio to the peer and the share of the limit; GFLOP/s for ``limit``.
    """
    images, targets = batch(settings)
    networks = {name: network(name, settings.size) for name in names}
    flops = {name: step_flops(model, settings) for name, model in networks.items()}
    steps = {name: one_step(model, images, targets, settings) for name, model in networks.items()}
    steps["limit"] = product(settings)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    first: dict[str, float] = {}
    for index in range(rounds + 2):
        for name, step in steps.items():
            taken = seconds_of(step, settings.device)
            first.setdefault(name, taken)
            if index > 1:  # the first two rounds warm up and compile
                seconds[name].append(taken)
    limit = [2 * MATRIX[settings.device] ** 3 / taken for taken in seconds.pop("limit")]
    rows: dict[str, Row] = {"limit": {"gflops": statistics.median(limit) / 1e9}}
    for name, times in seconds.items():
        rows[name] = {
            "images_per_second": settings.batch_size / statistics.median(times),
            "ratio": statistics.median(p / t for p, t in zip(seconds[PEER], times, strict=True)) if PEER in seconds else None,
            "share_of_limit": statistics.median(flops[name] / t / most for t, most in zip(times, limit, strict=True)),
            "gflop_a_step": flops[name] / 1e9,
            "first_step_seconds": first[name],
        }
    return rows


def _resident(field: str) -> float:
    """Returns a field of the status of this process in MiB: VmRSS is the resident memory, VmHWM its peak."""
    status = Path("/proc/self/status")
    match = re.search(rf"^{field}:\s+(\d+)", status.read_text() if status.exists() else "", re.MULTILINE)
    if match is None:
        raise SystemExit(f"{field} is missing in /proc/self/status. Peak memory needs Linux. Add --no-memory.")
    return int(match.group(1)) / 1024


def peak_memory(name: str, settings: StepSettings) -> float:
    """Returns the peak memory of three steps in this process, or on the device, in MiB; call it in a new process."""
    images, targets = batch(settings)
    before = _resident("VmRSS") if settings.device == "cpu" else 0.0
    step = one_step(network(name, settings.size), images, targets, settings)
    step()
    if settings.device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak: the first step also loads code
    step()
    step()
    return _resident("VmHWM") - before if settings.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20


def peak_memory_of_child(name: str, threads: int, settings: StepSettings) -> float:
    """Returns ``peak_memory`` of a child process."""
    command = [sys.executable, __file__, "--peak-of", name, "--batch-size", settings.batch_size, "--size", settings.size]
    command += ["--threads", threads, "--precisions", "bf16" if settings.bf16 else "fp32", "--device", settings.device]
    command += ["--compile"] * settings.compiled + ["--predict"] * settings.predict
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            done.stderr.strip() or f"The child process that measures the memory of {name} exited with {done.returncode}"
        )
    return float(done.stdout.splitlines()[-1])


def compiler() -> str | None:
    """Returns the C++ compiler that torch.compile would use, or None."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def options_of() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16, help="images per step")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--size", type=int, default=224, help="side of the input in pixels")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to time")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"], help="precisions to time"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device")
    parser.add_argument("--predict", action="store_true", help="time forward passes instead of training steps")
    parser.add_argument("--compile", action="store_true", help="also time compiled networks")
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--data", type=Path, help="data set for the comparison of AUROC")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="cache of decoded images")
    parser.add_argument("--epochs", type=int, default=5, help="epochs with --data")
    parser.add_argument("--peak-of", choices=NETWORKS, help=argparse.SUPPRESS)  # for child processes
    return parser.parse_args()


def main() -> None:
    """Prints a table and, with --json, an object."""
    options = options_of()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        settings = step_settings(options, bf16=options.precisions == ["bf16"], compiled=options.compile)
        print(peak_memory(options.peak_of, settings))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda was given, but there is no CUDA device. Remove --device.")
    results = {}
    for precision in options.precisions:
        for compiled in [False, True] if options.compile and compiler() else [False]:
            result = measure_with_memory(options, step_settings(options, bf16=precision == "bf16", compiled=compiled))
            results[f"{precision} {'compiled' if compiled else 'eager'}"] = result
    if options.json:
        print(json.dumps(results))
        return
    print("\n".join(table(results, options)))
    if options.compile and not compiler():
        print("Not compiled: torch.compile needs a C++ compiler, but $CXX, g++ and clang++ were not found.")
    if options.data:
        compare_auroc(options.data, options.cache, options.epochs)


def step_settings(options: argparse.Namespace, *, bf16: bool, compiled: bool) -> StepSettings:
    """Returns the settings of a step."""
    return StepSettings(options.batch_size, options.size, bf16, compiled, options.device, options.predict)


def measure_with_memory(options: argparse.Namespace, settings: StepSettings) -> dict[str, Row]:
    """Returns the rows of ``measure`` with the peak memory of each network."""
    result = measure(options.only, options.rounds, settings)
    torch.compiler.reset()
    for name in [] if options.no_memory else options.only:
        result[name]["peak_mib"] = peak_memory_of_child(name, options.threads, settings)
    return result


def table(results: dict[str, dict[str, Row]], options: argparse.Namespace) -> list[str]:
    """Returns one Markdown table per precision and mode."""
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
    """Trains all networks on a data set and prints the test AUROC."""
    import budget

    from reslink.datasets.manifest import Manifest
    from reslink.training.data import open_training_data
    from reslink.training.monitoring.progress import SilentProgress

    recipe = load_recipe(None, [f"trainer.epochs={epochs}", "trainer.precision=bf16", "trainer.device=cpu"])
    training_data = open_training_data(Manifest.open(data), recipe, cache, SilentProgress())
    n_train, n_test = (len(training_data.indices(split)) for split in ("train", "test"))
    print(f"{data.name}: {epochs} epochs, {n_train} training and {n_test} test images")
    runs = [(name, "adamw") for name in VARIANTS] + [(name, recipe.optimizer.name) for name in VARIANTS]
    for name, optimizer in dict.fromkeys([*runs, *((peer, "adamw") for peer in peers.PEERS)]):
        settings = recipe.optimizer.model_copy(update={"name": optimizer})

        def make_optimizer(model: nn.Module, settings: Any = settings) -> torch.optim.Optimizer:
            if isinstance(model, ResLink):
                return optim.make_optimizer(model, settings)
            return peers.adamw(model, settings.lr, settings.weight_decay)

        trainee = budget.Trainee(recipe, training_data, network(name, recipe.preprocess.size), make_optimizer)
        clock = budget.Steps(epochs * trainee.steps_an_epoch())
        trainee.train(clock)
        trainee.evaluate(clock, last=True)
        auroc = budget.test_metrics(trainee)["test"]["auroc"]["estimate"]
        print(f"{name:22s} {optimizer:6s} AUROC {auroc:.4f}  {clock.used:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
