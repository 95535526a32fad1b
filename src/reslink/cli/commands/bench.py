"""``reslink bench``: how fast this machine answers."""

from __future__ import annotations

import os
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
from reslink.cli.options import BatchSize, Json, wanted_threads
from reslink.cli.prediction_text import failure
from reslink.errors import InputError, ReslinkError, UsageError, nearest

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
_BUSY = 0.8  # of its wall time a thread that waits for nothing gets nearly all, unless other work shares its core

# A small process between: what a process has had as its peak counts for the children that it starts.
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
        str, typer.Argument(metavar="[BUNDLE]", help="A bundle folder, such as RUN/bundle, or a name of 'reslink models'.")
    ] = "ct",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help="Measure on these images; synthetic heads if not given.", show_default=False
        ),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, max=1000, help="Different images of each kind.")] = 8,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", help="Only torch, onnxruntime or openvino; may be given again.", show_default=False),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, max=600, help="For each backend, besides process starts.")
    ] = 8,
    batch_size: BatchSize = 32,
    json: Json = False,
) -> None:
    """Measure prediction on the CPU: latency of one image, throughput of many, process start, memory; under two minutes."""
    wanted = _known(backend or ())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="reslink-bench-") as folder:
        chosen, name = _bundle(bundle, Path(folder) / "bundle")
        found = _given(data, images, console) if data is not None else _drawn(images, Path(folder), console)
        rows, skipped = _measured(console, chosen, found, wanted, seconds, batch_size)
    result = {
        "bundle": {
            "name": name,
            "variant": chosen.architecture.get("name"),
            "weights_sha256": chosen.weights_sha256,
            "size": chosen.preprocess.size,
            "gate": chosen.decision.ood is not None,
        },
        "machine": _machine(),
        "images": {kind: len(files) for kind, files in found.items()},
        "batch_size": batch_size,
        "backends": rows,
        "skipped": skipped,
        "seconds": time.perf_counter() - began,
    }
    if json:
        console.json(result, indent=2)
    else:
        _show(console, result)


def _known(names: Sequence[str]) -> tuple[str, ...]:
    options = ("torch", *RUNTIMES)
    for name in names:
        if name not in options:
            raise UsageError(
                f"There is no backend {name!r} to measure", f"They are {', '.join(options)}", nearest(name, options)
            )
    return tuple(names)


def _bundle(given: str, spare: Path) -> tuple[Bundle, str]:
    """Returns the bundle, with a twin made in a folder of our own where it has none and one can be made, and its name."""
    from reslink.bundles.bundle import Bundle
    from reslink.cli.onnx_graph import PACKAGES

    bundle = Bundle.load(given)
    name = bundle.name or Path(given).name
    if bundle.onnx_model is None and all(find_spec(package) for package in PACKAGES):
        from reslink.export.onnx import to_onnx

        bundle = bundle.with_onnx(to_onnx(bundle), spare)
    return bundle, name


def _given(folder: Path, images: int, console: Console) -> Images:
    """Finds the first of the user's images that can be read; where they lie is not said in the results, which are handed on."""
    from reslink.imaging.reading import each_image, read_image

    found: list[Path] = []
    for file in each_image(folder):
        try:
            read_image(file)
        except ReslinkError as error:
            console.warn(failure(file.name, str(file), str(error)))
        else:
            found.append(file)
        if len(found) == images:
            break
    if not found:
        raise InputError(
            f"No image of {folder} could be read",
            "The benchmark needs one at least",
            "Give another folder, or leave --data out",
        )
    return {"given images": found}


def _drawn(images: int, folder: Path, console: Console) -> Images:
    """Draws synthetic CT heads as PNG files."""
    from reslink.datasets.phantom.cohort import render_slice
    from reslink.datasets.phantom.writers import to_grey, write_png

    progress = console.progress()
    progress.start(images * len(SIZES), "Drawing heads")
    found: Images = {}
    try:
        for size in SIZES:
            files = [folder / f"{size}_{i}.png" for i in range(images)]
            for i, file in enumerate(files):
                plane = render_slice(0, i + 1, tumour=i % 2 == 1, size=size)
                file.write_bytes(write_png(to_grey(plane.pixels, ct=True)))
                progress.step()
            found[f"PNG {size}×{size}"] = files
    finally:
        progress.end()
    return found


def _measured(
    console: Console, bundle: Bundle, images: Images, wanted: tuple[str, ...], seconds: float, batch_size: int
) -> tuple[list[Row], list[Row]]:
    """Returns a row for each backend and precision that runs here, and why the others do not."""
    runs, skipped = [], []
    for name in ("torch", *RUNTIMES):
        reason = _why_not(name, bundle)
        if reason is None and name in (wanted or (name,)):
            runs += [(name, "fp32"), *([("openvino", "bf16")] if name == "openvino" and _has_bf16() else [])]
        elif name in wanted:
            _refuse(name, bundle)
        elif not wanted:
            skipped.append({"backend": name, "reason": reason})
    progress = console.progress()
    progress.start(len(runs) * (len(images) + 2), "Measuring")
    try:
        return [_row(bundle, images, run, seconds, batch_size, progress.step) for run in runs], skipped
    finally:
        progress.end()


def _why_not(name: str, bundle: Bundle) -> str | None:
    if name == "torch":
        return None
    if find_spec(name) is None:
        return "its package is not installed"
    return None if bundle.onnx_model is not None else "the bundle has no model.onnx"


def _refuse(name: str, bundle: Bundle) -> None:
    """Raises the error that ``predict --backend`` raises."""
    from reslink.files import optional_import
    from reslink.inference.backends import EXTRAS

    optional_import(name, EXTRAS[name])
    bundle.onnx()


def _has_bf16() -> bool:
    from reslink.files import optional_import

    library: Any = optional_import("openvino", "openvino")
    return "BF16" in library.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _row(bundle: Bundle, images: Images, run: tuple[str, Any], seconds: float, batch_size: int, step: Any) -> Row:
    from reslink.inference.bench import latency, throughput
    from reslink.inference.classifier import Classifier

    name, precision = run
    folder = bundle.folder or Path()
    threads = wanted_threads()
    classifier = Classifier.load(folder, device="cpu", backend=name, threads=threads, precision=precision)
    row: Row = {"backend": name, "precision": precision, "latency": {}}
    for kind, files in images.items():
        contents = [file.read_bytes() for file in files]
        row["latency"][kind] = asdict(latency(classifier, contents, seconds * _LATENCY_SHARE / len(images)))
        step()
    every = [file for files in images.values() for file in files]
    row["throughput"] = asdict(throughput(classifier, every, batch_size, seconds * (1 - _LATENCY_SHARE)))
    step()
    plain = precision == "fp32"  # predict has no option for another precision
    row["cold_start"] = _cold_start(folder, name, every[0]) if plain else None
    row["peak_memory_mib"] = _process(folder, name, every)[1] if plain else None
    step()
    return row


def _cold_start(bundle: Path, backend: str, image: Path) -> Row:
    """Returns how long ``reslink predict`` takes on one image, from the start of its process to the end."""
    taken: list[float] = []
    while len(taken) < COLD_STARTS and sum(taken) < _COLD_SECONDS:
        taken.append(_process(bundle, backend, [image])[0])
    return {"n": len(taken), "median_s": median(taken)}


def _process(bundle: Path, backend: str, images: list[Path]) -> tuple[float, float]:
    """Returns the seconds and the peak memory in MiB of a ``reslink predict`` of its own."""
    words = [sys.executable, "-m", "reslink", "predict", str(bundle.absolute()), *map(str, images)]
    cost = measured_process([*words, "--backend", backend, "--device", "cpu", "--json"])
    if cost.exit_code:
        raise ReslinkError(
            f"reslink predict --backend {backend} ended with exit code {cost.exit_code}",
            "Its start is measured on images that it can read",
            "See its message above, or leave this backend out",
        )
    return cost.seconds, cost.peak_memory_mib


@dataclass(frozen=True)
class ProcessCost:
    """What a process took.

    Attributes:
        seconds: From its start to its end.
        cpu_seconds: Processor time, of all of its threads.
        peak_memory_mib: The most memory that it held at once.
        exit_code: As it ended.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    exit_code: int


def measured_process(words: Sequence[str]) -> ProcessCost:
    """Runs a process, throws its stdout away, and returns what it took."""
    done = subprocess.run([sys.executable, "-c", _LAUNCHER, *words], stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    seconds, cpu, memory, code = (float(value) for value in done.stdout.split())
    return ProcessCost(seconds, cpu, memory / (2**20 if sys.platform == "darwin" else 2**10), int(code))


def _machine() -> Row:
    from importlib import metadata

    packages = {
        name: metadata.version(name) for name in ("torch", *RUNTIMES, "numpy", "pillow") if find_spec(name) or name == "pillow"
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "threads": wanted_threads() or cores,
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


def _show(console: Console, result: Row) -> None:
    rows, more = [], []
    for row in result["backends"]:
        name = row["backend"] + ("" if row["precision"] == "fp32" else f" {row['precision']}")
        for kind, found in row["latency"].items():
            times = (found["median_ms"], found["p95_ms"], *found["stages"].values())
            rows.append((name, kind, str(found["n"]), *(f"{value:.2f}" for value in times)))
        cold, memory = row["cold_start"], row["peak_memory_mib"]
        rate = f"{row['throughput']['images_per_second']:.1f}"
        more.append(
            (name, rate, "–" if cold is None else f"{cold['median_s']:.2f}", "–" if memory is None else f"{memory:.0f}")
        )
    machine = result["machine"]
    title = f"One image, bytes to answer, in ms: {machine['processor']}, {machine['threads']} threads"
    columns = ("backend", "image", ">n", ">median", ">95 %", ">decode", ">preprocess", ">network", ">decision")
    console.table(columns, rows, title=title)
    console.table(("backend", ">images/s in batches", ">start of predict, s", ">peak memory, MiB"), more)
    for item in result["skipped"]:
        console.note(f"{item['backend']} was left out: {item['reason']}.")
    share = median(found["processor_share"] for row in result["backends"] for found in row["latency"].values())
    if share < _BUSY:
        console.warn(
            f"The machine was busy: other work took {1 - share:.0%} of the time that was measured. Times are upper bounds, "
            "images/s lower bounds; measure again when nothing else runs."
        )
    console.note(f"{result['bundle']['name']}, measured in {result['seconds']:.0f} s")
