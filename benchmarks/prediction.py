"""Measures prediction of reslink and its peers: one image, a folder, process start, many files, and int8.

Run: OMP_NUM_THREADS=1 python benchmarks/prediction.py BUNDLE [--data FOLDER] [--growth 1000]
     OMP_NUM_THREADS=1 python benchmarks/prediction.py BUNDLE --int8 --data DATA --splits RUN/splits.csv

BUNDLE has a model.onnx. Without --data the images are synthetic CT heads of 256×256; with it, images of the folder,
decoded and saved as PNG. Every subject runs once per round, in turn, so that a slow moment of the machine affects all
alike. Each runs once untimed before, so that its caches are warm. A ratio is the median over rounds of (time of the
peer) / (time of the subject) in the same round. --clock cpu measures processor time, for a machine with other jobs.

A peer is used as its user would write it: decode with Pillow, resize, normalize, network in eager torch, softmax. It
has no head mask, calibration, prediction sets or OOD detector. Its weights are untrained, which does not change the
time.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import growth
import int8
import numpy as np
import torch
from peers import PEERS, TITLES, build_peer
from PIL import Image as Picture
from torch.utils.data import DataLoader, Dataset

from reslink.bundles.bundle import Bundle
from reslink.cli.commands.bench import _has_bf16, _processor, run_measured
from reslink.datasets.phantom.cohort import render_slice
from reslink.datasets.phantom.writers import to_gray, write_png
from reslink.errors import ReslinkError
from reslink.imaging.reading import read_image
from reslink.imaging.search import find_images
from reslink.inference.backends import GraphBackend
from reslink.inference.classifier import Classifier

Answer: TypeAlias = Callable[[bytes], object]
Work: TypeAlias = Callable[[], object]
FIRST = "densenet121"
PEER_SIZE = 224
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Rounds: TypeAlias = dict[str, list[float]]


def pictures(data: Path | None, count: int, side: int = 256) -> list[bytes]:
    """Returns PNG files of one size: images of a folder in even steps, or synthetic heads."""
    if data is None:
        planes = (render_slice(0, i + 1, tumor=i % 2 == 1, size=side) for i in range(count))
        return [write_png(to_gray(plane.pixels, ct=True)) for plane in planes]
    files = find_images([data])
    return [_png(file, side) for file in files[:: max(1, len(files) // count)][:count]]


def _png(file: Path, side: int) -> bytes:
    stream = io.BytesIO()
    with Picture.open(file) as picture:
        picture.convert("L").resize((side, side), Picture.Resampling.BILINEAR).save(stream, "PNG")
    return stream.getvalue()


def ours(classifier: Classifier) -> Answer:
    """Returns the full pipeline: decode, head mask, resize, network, calibration, prediction sets, OOD detector."""

    def answer(content: bytes) -> object:
        pixels = classifier.bundle.preprocess.pixels(read_image(content).slices()[0])
        return classifier.classify(pixels[None])

    return answer


def plain_pixels(content: bytes | Path, size: int) -> torch.Tensor:
    """Returns (3, size, size) pixels, as a user of a peer would write it."""
    with Picture.open(io.BytesIO(content) if isinstance(content, bytes) else content) as picture:
        gray = picture.convert("L").resize((size, size), Picture.Resampling.BILINEAR)
    values = (torch.from_numpy(np.asarray(gray, dtype=np.float32) / 255) - 0.25) / 0.25
    return values.expand(3, size, size)


def peer(name: str, size: int) -> Answer:
    """Returns the plain pipeline of a peer for one image."""
    network = build_peer(name, 3, 2, size).eval()

    def answer(content: bytes) -> object:
        with torch.inference_mode():
            return torch.softmax(network(plain_pixels(content, size)[None]), dim=1).numpy()

    return answer


def subjects(bundle: str, quantized: bytes | None) -> dict[str, Answer]:
    """Returns everything that is timed, by name; each peer at the side of the bundle and at 224."""
    answers: dict[str, Answer] = {}
    for backend in ("onnxruntime", "openvino", "torch"):
        answers[backend] = ours(Classifier.load(bundle, "cpu", backend, threads=torch.get_num_threads()))
    if _has_bf16():
        answers["openvino bf16"] = ours(
            Classifier.load(bundle, "cpu", "openvino", threads=torch.get_num_threads(), precision="bf16")
        )
    loaded = Bundle.load(bundle)
    if quantized is not None:
        for name in ("onnxruntime", "openvino"):
            graph = GraphBackend(name, quantized, torch.get_num_threads())
            answers[f"{name} int8"] = ours(Classifier(loaded, backend=graph))
    for size in dict.fromkeys((loaded.preprocess.size, PEER_SIZE)):
        answers |= {f"{name} {size}": peer(name, size) for name in PEERS}
    return answers


def timed_rounds(
    works: Mapping[str, Work], rounds: int, clock: Callable[[], float], warm: Mapping[str, Work] | None = None
) -> Rounds:
    """Times every subject once per round, in turn; the first round is a warm-up."""
    taken: Rounds = {name: [] for name in works}
    for index in range(rounds + 1):
        for name, work in works.items():
            if warm is not None:
                warm[name]()
            began = clock()
            work()
            if index:
                taken[name].append(clock() - began)
    return taken


def ratio(taken: Rounds, peer_name: str, name: str) -> float:
    """Returns the median over rounds of (time of the peer) / (time of the subject)."""
    return statistics.median(p / t for p, t in zip(taken[peer_name], taken[name], strict=True))


def latency(bundle: str, images: Sequence[bytes], rounds: int, clock: str, quantized: bytes | None) -> None:
    """Prints the table of one image from bytes to answer; each round uses the next image."""
    answers = subjects(bundle, quantized)
    size = Bundle.load(bundle).preprocess.size
    turns = {name: _in_turn(answer, images) for name, answer in answers.items()}
    taken = timed_rounds(turns, rounds, CLOCKS[clock], warm=turns)
    firsts = [f"{FIRST} {side}" for side in dict.fromkeys((size, PEER_SIZE))]
    heading = "".join(f" times faster than {TITLES[FIRST]} at {name.rsplit(' ', 1)[1]} |" for name in firsts)
    print(f"\nOne image, 256×256 PNG, bytes to answer, {clock} clock, {rounds} rounds of {len(images)} images in turn\n")
    print(f"| subject | median ms | 95th percentile |{heading}\n|---|--:|--:|" + "--:|" * len(firsts))
    for name, times in taken.items():
        cells = (statistics.median(times) * 1000, float(np.percentile(times, 95)) * 1000)
        ratios = (f"{ratio(taken, first, name):.1f}" for first in firsts)
        print(f"| {_title(name, size)} | {cells[0]:.2f} | {cells[1]:.2f} | {' | '.join(ratios)} |")


def _in_turn(answer: Answer, images: Sequence[bytes]) -> Work:
    state = iter(range(sys.maxsize))
    return lambda: answer(images[next(state) % len(images)])


def _title(name: str, size: int) -> str:
    word, _, size_text = name.partition(" ")
    return f"{TITLES[word]}, {size_text}×{size_text}, eager torch" if word in TITLES else f"reslink {size}×{size}, {name}"


class _Files(Dataset[torch.Tensor]):
    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return plain_pixels(self.files[index], self.size)


def our_folder(classifier: Classifier, folder: str, batch_size: int) -> Work:
    """Returns prediction of a folder by a classifier."""
    return lambda: list(classifier.predict([folder], batch_size=batch_size))


def plain_folder(files: Sequence[Path], size: int, batch_size: int) -> Work:
    """Returns prediction of a folder by resnet18: torch's DataLoader, batches, softmax."""
    network = build_peer("resnet18", 3, 2, size).eval()

    def work() -> object:
        with torch.inference_mode():
            loader = DataLoader(_Files(files, size), batch_size=batch_size)
            return [torch.softmax(network(batch), dim=1).numpy() for batch in loader]

    return work


def folder(bundle: str, images: Sequence[bytes], rounds: int, clock: str, batch_size: int) -> None:
    """Prints the table of images per second over a folder of files."""
    with tempfile.TemporaryDirectory(prefix="reslink-folder-") as work_folder:
        files = [Path(work_folder) / f"{i:05d}.png" for i in range(len(images))]
        for file, content in zip(files, images, strict=True):
            file.write_bytes(content)
        size = Bundle.load(bundle).preprocess.size
        work: dict[str, Work] = {}
        for backend in ("onnxruntime", "openvino"):
            classifier = Classifier.load(bundle, "cpu", backend, threads=torch.get_num_threads())
            work[backend] = our_folder(classifier, work_folder, batch_size)
        sides = dict.fromkeys((size, PEER_SIZE))
        work |= {f"resnet18 {side}": plain_folder(files, side, batch_size) for side in sides}
        work |= {f"resnet18 {side}, one by one": plain_folder(files, side, 1) for side in sides}
        taken = timed_rounds(work, rounds, CLOCKS[clock])
    print(f"\nA folder of {len(images)} PNG files of 256×256, batches of {batch_size}, {clock} clock, {rounds} rounds\n")
    print("| subject | images/s |" + "".join(f" times faster than resnet18 {side} in batches |" for side in sides))
    print("|---|--:|" + "--:|" * len(sides))
    for name, times in taken.items():
        ratios = (f"{ratio(taken, f'resnet18 {side}', name):.1f}" for side in sides)
        print(f"| {name} | {len(images) / statistics.median(times):.0f} | {' | '.join(ratios)} |")


_CHECK = """
import sys
from reslink.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    sys.exit(70 if "torch" in sys.modules else end.code)
"""
"""Exits with 70 if torch was imported."""


def cold_start(bundle: str, image: bytes, starts: int, clock: str) -> None:
    """Prints the time of ``reslink predict`` as a process on one image, and whether it imports torch."""
    print(f"\nreslink predict on one image as a process, median of {starts} starts, {clock} clock\n")
    print("| backend | seconds | peak memory, MiB | imports torch |\n|---|--:|--:|---|")
    with tempfile.TemporaryDirectory(prefix="reslink-start-") as work_folder:
        file = Path(work_folder) / "one.png"
        file.write_bytes(image)
        for backend in ("onnxruntime", "openvino", "torch"):
            words = ["predict", str(bundle), str(file), "--json", "--device", "cpu", "--backend", backend]
            runs = [run_measured([sys.executable, "-m", "reslink", *words]) for _ in range(starts)]
            code = run_measured([sys.executable, "-c", _CHECK, *words]).exit_code
            if code not in (0, 70) or any(run.exit_code for run in runs):
                raise SystemExit(f"reslink predict --backend {backend} failed")
            second = statistics.median(run.cpu_seconds if clock == "cpu" else run.seconds for run in runs)
            memory = statistics.median(run.peak_memory_mib for run in runs)
            print(f"| {backend} | {second:.2f} | {memory:.0f} | {'yes' if code else 'no'} |")


def main(args: Sequence[str] | None = None) -> None:
    """Prints every table."""
    options = _options().parse_args(args)
    if options.int8 and not (options.data and options.splits):
        raise SystemExit(
            "--int8 was given without --data or --splits. It is calibrated on the validation split. Add both options."
        )
    if "int8" in (options.only or ()) and not options.int8:
        raise SystemExit("--only int8 was given without --int8. Add --int8 --data DATA --splits RUN/splits.csv.")
    for name in options.only or ():
        if name not in PARTS:
            raise SystemExit(f"There is no part {name!r}. The parts are {', '.join(PARTS)}.")
    print(f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, bundle {Path(options.bundle).name}")
    try:
        for _ in _parts(options):
            sys.stdout.flush()
    except ReslinkError as error:
        raise SystemExit(f"Error: {error}") from error
    print("\nResearch use only.")


PARTS = ("int8", "latency", "folder", "start", "growth")


def _parts(options: argparse.Namespace) -> Iterator[None]:
    selected = set(options.only or PARTS)
    images = pictures(options.data, options.images)
    quantized = None
    if options.int8:
        quantized = int8.quantized(options.bundle, options.data, options.splits)
        if "int8" in selected:
            int8.report(options.bundle, quantized, options.data, options.splits)
            yield
    if "latency" in selected:
        latency(options.bundle, images, options.rounds, options.clock, quantized)
        yield
    if "folder" in selected:
        folder(options.bundle, images * 2, max(3, options.rounds // 10), options.clock, options.batch_size)
        yield
    if "start" in selected:
        cold_start(options.bundle, images[0], 5, options.clock)
        yield
    if "growth" in selected:
        growth.report(options.bundle, images, options.growth, options.clock)
        yield


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="bundle folder or name of a shipped model")
    parser.add_argument("--data", type=Path, help="folder of images; for --int8 the data set of the run")
    parser.add_argument("--splits", type=Path, help="splits.csv of the run, for --int8")
    parser.add_argument("--int8", action="store_true", help="quantize the ONNX model and measure its accuracy")
    parser.add_argument("--images", type=int, default=32, help="number of different images")
    parser.add_argument("--rounds", type=int, default=64, help="rounds of the latency; a folder takes a tenth")
    parser.add_argument("--batch-size", type=int, default=32, help="images per batch of a folder")
    parser.add_argument("--growth", type=int, default=1000, metavar="MOST", help="number of files: 1, 10, … MOST")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="wall clock or processor time")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts to run: int8, latency, folder, start, growth")
    return parser


if __name__ == "__main__":
    main()
