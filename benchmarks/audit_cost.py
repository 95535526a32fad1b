"""Measures the processor time of an audit and of an evaluation with one thread.

Run: python benchmarks/audit_cost.py files DATA [--images 120] [--rounds 5]
     python benchmarks/audit_cost.py audit DATA [--images 600]
     python benchmarks/audit_cost.py evaluate DATA --bundle ct [--images 300]

- ``files`` times each part of the measurement of a file: milliseconds a file, the median of several rounds.
- ``audit`` times a whole audit of evenly spaced images: seconds of processor time, and milliseconds an image.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reslink.datasets.manifest import Manifest


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
        timed("asymmetry", lambda: asymmetry_features(isolated_head(image)))
        timed("outside the head", lambda: outside_head_features(image))
        timed("all", lambda: extract_features(CaseFile(path.name, path)))

    names = ("read", "head mask", "text", "image features", "thumbnail", "asymmetry", "outside the head", "all")
    for _ in range(rounds + 1):  # the first round warms up
        for name in names:
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
    parser.add_argument("what", choices=["files", "audit", "evaluate", "evaluate-once"], help="measurement")
    parser.add_argument("data", type=Path, help="data set")
    parser.add_argument("--images", type=int, default=120, help="images")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of files")
    parser.add_argument("--bundle", default="ct", help="model of evaluate")
    options = parser.parse_args()
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
