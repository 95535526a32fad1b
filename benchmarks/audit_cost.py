"""Measures the processor time of an audit and of an evaluation with one thread, and the memory of the comparisons of an audit.

Run: python benchmarks/audit_cost.py files DATA [--images 120] [--rounds 5]
     python benchmarks/audit_cost.py audit DATA [--images 600]
     python benchmarks/audit_cost.py memory [--counts 5000 20000 50000 100000]
     python benchmarks/audit_cost.py evaluate DATA --bundle ct [--images 300]

- ``files`` times each part of the measurement of a file: milliseconds a file, the median of several rounds.
- ``audit`` times a whole audit of evenly spaced images: seconds of processor time, and milliseconds an image.
- ``memory`` gives an audit the features of synthetic files, all with different thumbnails, and measures the comparisons:
  the largest memory, without files that are mapped, and the processor time, for each number of files in a new process.
- ``evaluate`` evaluates a third of the images, then all of them, each in a new process. The difference gives the
  milliseconds an image; the rest is the fixed cost of the command: imports, model, report.

Set OMP_NUM_THREADS=1. To compare two versions, run each with PYTHONPATH set to its ``src``, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from near_duplicates import different_heads, peak_memory
from numpy.typing import NDArray

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.files import sha256

if TYPE_CHECKING:
    from reslink.audit.extract import FileFeatures


def evenly_spaced(data: Path, images: int) -> Manifest:
    """Returns about a number of cases of a data set."""
    manifest = Manifest.open(data, for_training=False)
    return manifest.subset(range(0, len(manifest), max(1, len(manifest) // images)))


def files(data: Path, images: int, rounds: int) -> dict[str, float]:
    """Returns the milliseconds of each part of the measurement of a file."""
    from reslink.audit.burned_in_text import find_text
    from reslink.audit.extract import CaseFile, extract_features
    from reslink.audit.features.asymmetry import asymmetry_features, isolated_head
    from reslink.audit.features.image import image_features
    from reslink.audit.features.outside_head import outside_head_features
    from reslink.datasets.cache.decode import read_slice
    from reslink.datasets.near_duplicates.fingerprints import make_fingerprints
    from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
    from reslink.imaging.head_mask import head_mask

    paths = [case.path for case in evenly_spaced(data, images).cases]
    seconds: dict[str, list[float]] = {}

    def timed(name: str, part: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = part()
        seconds[name][-1] += time.process_time() - start
        return result

    def measure(path: Path) -> None:
        image = timed("read", lambda: read_slice(path, path.name))
        timed("head mask", lambda: head_mask(image))
        timed("text", lambda: find_text(image))
        timed("image features", lambda: image_features(image, path))
        timed("thumbnail", lambda: make_thumbnail(image))
        again = replace(image)  # without the stored head mask
        timed("head mask, thumbnail and fingerprint", lambda: make_fingerprints(make_thumbnail(again)[None]))
        timed("asymmetry", lambda: asymmetry_features(isolated_head(image)))
        timed("outside the head", lambda: outside_head_features(image))
        timed("all", lambda: extract_features(CaseFile(path.name, path)))

    names = ("read", "head mask", "text", "image features", "thumbnail", "asymmetry", "outside the head", "all")
    for _ in range(rounds + 1):  # the first round warms up
        for name in (*names, "head mask, thumbnail and fingerprint"):
            seconds.setdefault(name, []).append(0.0)
        for path in paths:
            measure(path)
    return {name: 1000 * statistics.median(values[1:]) / len(paths) for name, values in seconds.items()}


def audit(data: Path, images: int) -> dict[str, float]:
    """Returns the processor time of an audit."""
    from reslink.audit.audit import run_audit

    manifest = evenly_spaced(data, images)
    start = time.process_time()
    run_audit(manifest, workers=0)
    seconds = time.process_time() - start
    return {"images": len(manifest), "seconds": seconds, "milliseconds an image": 1000 * seconds / len(manifest)}


def synthetic_features(pool: Sequence[FileFeatures], heads: NDArray[np.uint8]) -> Iterator[FileFeatures]:
    """Yields the features of as many different files as there are thumbnails, made from those of a few phantoms."""
    rng = np.random.default_rng(0)

    def changed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        noise = rng.integers(-8, 9, picture.shape, dtype=np.int16)
        return np.asarray(np.clip(picture + noise, 0, 255), np.uint8)

    for i, head in enumerate(heads):
        item = pool[i % len(pool)]
        outside = None if item.outside_head is None else item.outside_head * rng.normal(1, 0.05, len(item.outside_head))
        yield replace(
            item,
            sha256=sha256(str(i)),
            thumbnail=np.array(head),
            image=replace(item.image, thumbnail=changed(item.image.thumbnail)),
            tiny_thumbnail=changed(item.tiny_thumbnail),
            asymmetry=(item.asymmetry * rng.normal(1, 0.05, len(item.asymmetry))).astype(np.float32),
            histogram=(item.histogram * rng.normal(1, 0.05, len(item.histogram))).astype(np.float32),
            outside_head=None if outside is None else outside.astype(np.float32),
        )


def memory(count: int) -> dict[str, float]:
    """Returns memory and processor time of the comparisons of an audit, without those of making the features."""
    from reslink.audit.audit import run_audit
    from reslink.audit.extract import CaseFile, FileFeatures, extract_features
    from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

    spent = 0.0

    def extract(files: Sequence[CaseFile], _: object) -> Iterator[Any]:
        nonlocal spent
        made = synthetic_features(pool, heads)
        for _file in files:
            start = time.process_time()
            item = next(made)
            spent += time.process_time() - start
            yield item

    with tempfile.TemporaryDirectory() as folder:
        phantoms = Manifest.open(make_cohort(Path(folder) / "heads", PhantomSettings(patients=60, slices=1, size=128, seed=2)))
        extracted = [extract_features(CaseFile("", case.path)) for case in phantoms.cases]
        pool = [item for item in extracted if isinstance(item, FileFeatures)]
        heads = different_heads(count, Path(folder) / "heads.npy")
        names = [Path(folder) / f"{i:07d}.png" for i in range(count)]
        classes = [phantoms.cases[i % len(pool)].label for i in range(count)]
        cases = (Case(path, label, name=path.name) for path, label in zip(names, classes, strict=True))
        manifest = replace(phantoms, cases=tuple(cases))
        start = time.process_time()
        with peak_memory() as peak:
            result = run_audit(manifest, extract=extract).as_dict()
        seconds = time.process_time() - start - spent
    return {
        "images": count,
        "MiB": peak[0],
        "KB an image": peak[0] * 1.048576 * 1000 / count,
        "milliseconds an image": 1000 * seconds / count,
        "pairs": len(result["near_duplicate_pairs"]),
    }


def evaluate_once(data: Path, bundle: str, images: int) -> tuple[int, float]:
    """Evaluates some images; returns their number and the processor time of this process and its workers since its start."""
    import reslink

    manifest = evenly_spaced(data, images)
    with tempfile.TemporaryDirectory() as folder:
        reslink.evaluate(bundle, manifest, folder, device="cpu", allow_leakage=True, overwrite=True)
    return len(manifest), sum(os.times()[:4])


def evaluate(data: Path, bundle: str, images: int) -> dict[str, float]:
    """Returns the milliseconds an image and the fixed seconds of an evaluation."""
    results = []
    for count in (images // 3, images):
        command = [sys.executable, __file__, "evaluate-once", str(data), "--bundle", bundle, "--images", str(count)]
        results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))
    (few, short), (many, long) = results
    each = (long - short) / (many - few)
    return {"images": many, "milliseconds an image": 1000 * each, "fixed seconds": long - many * each, "seconds": long}


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["files", "audit", "memory", "evaluate", "evaluate-once"], help="measurement")
    parser.add_argument("data", type=Path, nargs="?", help="data set, for all but memory")
    parser.add_argument("--images", type=int, default=120, help="images")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of files")
    parser.add_argument("--bundle", default="ct", help="model of evaluate")
    parser.add_argument("--counts", type=int, nargs="+", default=[5000, 20_000, 50_000, 100_000], help="files of memory")
    options = parser.parse_args()
    if options.what == "memory":
        for count in options.counts:
            with ProcessPoolExecutor(1) as pool:
                print(json.dumps(pool.submit(memory, count).result()), flush=True)
        return
    if options.data is None:
        parser.error(f"{options.what} needs a data set")
    if options.what == "files":
        result: object = files(options.data, options.images, options.rounds)
    elif options.what == "audit":
        result = audit(options.data, options.images)
    else:
        function = evaluate if options.what == "evaluate" else evaluate_once
        result = function(options.data, options.bundle, options.images)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
