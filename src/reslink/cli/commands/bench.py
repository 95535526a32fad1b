"""``reslink bench``: measures the speed of prediction on this machine."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import BatchSize, Json, threads_from_environment
from reslink.cli.prediction_text import error_line
from reslink.cores import available_cores
from reslink.errors import InputError, ReslinkError, check_choice
from reslink.training.monitoring.progress import phase

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

EXAMPLES = (
    "reslink bench",
    "reslink bench runs/first/bundle --backend onnxruntime --backend torch",
    "reslink bench runs/first/bundle --data ward/ --images 50 --json",
)
RUNTIMES = ("onnxruntime", "openvino")
SIZES = (256, 512)
COLD_STARTS = 3
_LATENCY_SHARE = 0.5
_COLD_SECONDS = 6.0
_BUSY_SHARE = 0.8  # a thread that waits for nothing gets nearly all of its wall time, unless other programs use its core

# A small process in between: the peak memory of a process counts for the children that it starts.
_LAUNCHER = """
import os, subprocess, sys, time
began = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
child.returncode = os.waitstatus_to_exitcode(status)
print(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, child.returncode)
"""

Row = dict[str, Any]
Images = dict[str, list[Path]]


def bench(
    console: Console,
    bundle: Annotated[
        str,
        typer.Argument(metavar="[BUNDLE]", help="A bundle folder such as RUN/bundle, or a model name from 'reslink models'."),
    ] = "ct",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="Images to measure on; default: synthetic heads.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, max=1000, help="Number of different images per image size.")] = 8,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            help="Backend to measure: torch, onnxruntime or openvino; repeatable; default: all.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.1, max=600, help="Measuring time per backend in seconds, without process starts."),
    ] = 8,
    batch_size: BatchSize = 32,
    json: Json = False,
) -> None:
    """Measure prediction on the CPU: latency, throughput, process start and memory. Takes under two minutes."""
    selected = _check_backends(backend or ())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="reslink-bench-") as folder:
        loaded, name = _load_bundle(bundle, Path(folder) / "bundle")
        loaded.require_slices("reslink bench")
        files = _user_images(data, images, console) if data is not None else _synthetic_images(images, Path(folder), console)
        rows, skipped = _measure(console, loaded, files, selected, seconds, batch_size)
    result = {
        "bundle": {
            "name": name,
            "variant": loaded.architecture.get("name"),
            "weights_sha256": loaded.weights_sha256,
            "size": loaded.preprocess.size,
            "ood_detector": loaded.decision.ood is not None,
        },
        "machine": _machine(),
        "images": {kind: len(paths) for kind, paths in files.items()},
        "batch_size": batch_size,
        "backends": rows,
        "skipped": skipped,
        "seconds": time.perf_counter() - began,
    }
    if json:
        console.json(result, indent=2)
    else:
        _print_result(console, result)


def _check_backends(names: Sequence[str]) -> tuple[str, ...]:
    options = ("torch", *RUNTIMES)
    for name in names:
        check_choice("backend", name, options)
    return tuple(names)


def _load_bundle(given: str, copy: Path) -> tuple[Bundle, str]:
    """Returns the bundle and its name; a bundle without an ONNX model is copied to ``copy`` with one, if that is possible."""
    from reslink.api.onnx_model import PACKAGES
    from reslink.bundles.bundle import Bundle

    bundle = Bundle.load(given)
    name = bundle.name or Path(given).name
    if bundle.onnx_model is None and all(find_spec(package) for package in PACKAGES):
        from reslink.export.onnx import to_onnx

        bundle = bundle.with_onnx(to_onnx(bundle), copy)
    return bundle, name


def _user_images(folder: Path, images: int, console: Console) -> Images:
    """Finds the first readable images of the user. The results do not contain their paths, so that they can be shared."""
    from reslink.imaging.reading import read_image
    from reslink.imaging.search import iter_images

    readable: list[Path] = []
    for file in iter_images(folder):
        try:
            read_image(file)
        except ReslinkError as error:
            console.warn(error_line(file.name, str(file), str(error)))
        else:
            readable.append(file)
        if len(readable) == images:
            break
    if not readable:
        raise InputError(
            f"No image in {folder} could be read",
            "The benchmark needs at least one image",
            "Choose another folder, or remove --data",
        )
    return {"given images": readable}


def _synthetic_images(images: int, folder: Path, console: Console) -> Images:
    """Draws synthetic CT heads as PNG files."""
    from reslink.datasets.phantom.cohort import render_slice
    from reslink.datasets.phantom.writers import to_gray, write_png

    progress = console.progress()
    images_by_size: Images = {}
    with phase(progress, images * len(SIZES), "Drawing heads", "head"):
        for size in SIZES:
            files = [folder / f"{size}_{i}.png" for i in range(images)]
            for i, file in enumerate(files):
                plane = render_slice(0, i + 1, tumor=i % 2 == 1, size=size)
                file.write_bytes(write_png(to_gray(plane.pixels, ct=True)))
                progress.step()
            images_by_size[f"PNG {size}×{size}"] = files
    return images_by_size


def _measure(
    console: Console, bundle: Bundle, images: Images, selected: tuple[str, ...], seconds: float, batch_size: int
) -> tuple[list[Row], list[Row]]:
    """Returns one row per backend and precision that is available, and the reasons why others are not."""
    runs, skipped = [], []
    for name in ("torch", *RUNTIMES):
        reason = _unavailable_reason(name, bundle)
        if reason is None and name in (selected or (name,)):
            runs += [(name, "fp32"), *([("openvino", "bf16")] if name == "openvino" and _has_bf16() else [])]
        elif name in selected:
            _raise_unavailable(name, bundle)
        elif not selected:
            skipped.append({"backend": name, "reason": reason})
    progress = console.progress()
    with phase(progress, len(runs) * (len(images) + 2), "Measuring", "measurement"):
        return [_row(bundle, images, run, seconds, batch_size, progress.step) for run in runs], skipped


def _unavailable_reason(name: str, bundle: Bundle) -> str | None:
    if find_spec(name) is None:
        return "its package is not installed"
    return None if name == "torch" or bundle.onnx_model is not None else "the bundle has no model.onnx"


def _raise_unavailable(name: str, bundle: Bundle) -> None:
    """Raises the same error as ``predict --backend``."""
    from reslink.inference.runtimes import import_runtime

    import_runtime(name)
    bundle.onnx()


def _has_bf16() -> bool:
    from reslink.inference.runtimes import openvino_core

    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _row(bundle: Bundle, images: Images, run: tuple[str, Any], seconds: float, batch_size: int, step: Any) -> Row:
    from reslink.inference.bench import measure_latency, measure_throughput
    from reslink.inference.classifier import Classifier

    name, precision = run
    folder = bundle.folder or Path()
    threads = threads_from_environment()
    classifier = Classifier.load(folder, device="cpu", backend=name, threads=threads, precision=precision)
    row: Row = {"backend": name, "precision": precision, "latency": {}}
    for kind, files in images.items():
        contents = [file.read_bytes() for file in files]
        row["latency"][kind] = asdict(measure_latency(classifier, contents, seconds * _LATENCY_SHARE / len(images)))
        step()
    all_files = [file for files in images.values() for file in files]
    row["throughput"] = asdict(measure_throughput(classifier, all_files, batch_size, seconds * (1 - _LATENCY_SHARE)))
    step()
    default_precision = precision == "fp32"  # predict has no option for another precision
    row["cold_start"] = _cold_start(folder, name, all_files[0]) if default_precision else None
    row["peak_memory_mib"] = _process(folder, name, all_files)[1] if default_precision else None
    step()
    return row


def _cold_start(bundle: Path, backend: str, image: Path) -> Row:
    """Returns the duration of ``reslink predict`` on one image, from the start to the end of its process."""
    durations: list[float] = []
    while len(durations) < COLD_STARTS and sum(durations) < _COLD_SECONDS:
        durations.append(_process(bundle, backend, [image])[0])
    return {"n": len(durations), "median_s": median(durations)}


def _process(bundle: Path, backend: str, images: list[Path]) -> tuple[float, float]:
    """Returns the duration in seconds and the peak memory in MiB of a ``reslink predict`` process."""
    words = [sys.executable, "-m", "reslink", "predict", str(bundle.absolute()), *map(str, images)]
    cost = run_measured([*words, "--backend", backend, "--device", "cpu", "--json"])
    if cost.exit_code:
        raise ReslinkError(
            f"reslink predict --backend {backend} ended with exit code {cost.exit_code}",
            "The measurement needs a prediction without errors",
            "Read its message above, or measure another backend with --backend",
        )
    return cost.seconds, cost.peak_memory_mib


@dataclass(frozen=True)
class ProcessCost:
    """Time and memory of a process.

    Attributes:
        seconds: Wall time in seconds.
        cpu_seconds: Processor time of all threads in seconds.
        peak_memory_mib: Peak resident memory in MiB.
        exit_code: Exit code.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    exit_code: int


def run_measured(words: Sequence[str]) -> ProcessCost:
    """Runs a process, discards its stdout, and returns its cost."""
    done = subprocess.run([sys.executable, "-c", _LAUNCHER, *words], stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    seconds, cpu, memory, code = (float(value) for value in done.stdout.split())
    return ProcessCost(seconds, cpu, memory / (2**20 if sys.platform == "darwin" else 2**10), int(code))


def _machine() -> Row:
    from importlib import metadata

    packages = {
        name: metadata.version(name) for name in ("torch", *RUNTIMES, "numpy", "pillow") if find_spec(name) or name == "pillow"
    }
    cores = available_cores()
    return {
        "processor": _processor(),
        "cores": cores,
        "threads": threads_from_environment() or cores,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": packages,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _print_result(console: Console, result: Row) -> None:
    rows, rates = [], []
    for row in result["backends"]:
        name = row["backend"] + ("" if row["precision"] == "fp32" else f" {row['precision']}")
        for kind, timing in row["latency"].items():
            times = (timing["median_ms"], timing["p95_ms"], *timing["stages"].values())
            rows.append((name, kind, str(timing["n"]), *(f"{value:.2f}" for value in times)))
        cold, memory = row["cold_start"], row["peak_memory_mib"]
        rate = f"{row['throughput']['images_per_second']:.1f}"
        rates.append(
            (name, rate, "–" if cold is None else f"{cold['median_s']:.2f}", "–" if memory is None else f"{memory:.0f}")
        )
    machine = result["machine"]
    title = f"Latency of one image in ms: {machine['processor']}, {machine['threads']} threads"
    columns = ("backend", "image", ">n", ">median", ">95 %", ">decode", ">preprocess", ">network", ">decision")
    console.table(columns, rows, title=title)
    console.table(("backend", ">images/s in batches", ">start of predict, s", ">peak memory, MiB"), rates)
    for item in result["skipped"]:
        console.note(f"{item['backend']} was skipped: {item['reason']}.")
    share = median(timing["processor_share"] for row in result["backends"] for timing in row["latency"].values())
    if share < _BUSY_SHARE:
        console.warn(
            f"The machine was busy: other programs used {1 - share:.0%} of the measured time. Times are upper bounds, images/s "
            "are lower bounds. Measure again when no other program runs."
        )
    console.note(f"{result['bundle']['name']}, measured in {result['seconds']:.0f} s")
