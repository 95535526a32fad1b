"""Compares single networks, the ensemble, the distilled network and flip averaging on the hold-out of ``reslink cv --holdout``.

Run: python benchmarks/ensembles.py CV_FOLDER

Writes benchmarks/results/ensembles.csv. Metrics are those of the hold-out in ``CV_FOLDER/split.csv``, with 95 % intervals over
its groups, and for single networks also over the networks of the folds. The time is processor time of ONNX Runtime for a slice
after preprocessing, one thread, the median of 100 calls: other work on the machine hardly changes it.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.experiments.cross_validation.tables import hold_out_sample
from reslink.experiments.runner.results import TrialPredictions
from reslink.experiments.runner.seed_statistics import SeedBootstrap
from reslink.export.onnx import to_onnx
from reslink.inference.backends import GraphBackend
from reslink.inference.classifier import Classifier

METRICS = {"accuracy": "accuracy", "auroc": "AUROC", "ece": "ECE"}
CALLS = 100
BATCH = 32


def members_of(folder: Path, ensemble: Bundle) -> list[Bundle]:
    """Returns the bundles of the networks of an ensemble, in order."""
    known = {bundle.weights_sha256: bundle for bundle in map(Bundle.load, (folder / "runs").glob("*/bundle"))}
    return [known[row["weights_sha256"]] for row in ensemble.provenance["cross_validation"]["members"]]


def with_flip(bundle: Bundle) -> Bundle:
    """Returns a bundle with flip averaging."""
    return replace(bundle, decision=bundle.decision.model_copy(update={"flip_average": True}))


def models(folder: Path) -> Iterator[tuple[str, list[Bundle]]]:
    """Yields the models; several bundles of one model are averaged."""
    ensemble = Bundle.load(folder / "bundle")
    members = members_of(folder, ensemble)
    plain = replace(ensemble, decision=Decision())
    yield "single network", members
    yield "single network, flip-averaged", [with_flip(member) for member in members]
    if (folder / "distilled").exists():
        distilled = Bundle.load(folder / "distilled")
        yield "distilled network", [distilled]
        yield "distilled network, flip-averaged", [with_flip(distilled)]
    yield "ensemble, not calibrated", [plain]
    yield "ensemble, calibrated on out-of-fold predictions", [ensemble]
    yield "ensemble, calibrated, flip-averaged", [with_flip(ensemble)]


def predictions(bundle: Bundle, cache: PixelCache) -> TrialPredictions:
    """Returns the answers of a bundle for all cases of a cache."""
    classifier = Classifier.load(bundle, device="cpu", backend="torch")
    rows = np.arange(len(cache))
    logits = np.concatenate([classifier.logits(cache.batch(batch)) for batch in cache.batches(rows, BATCH)])
    y_prob = bundle.decision.probabilities(logits)
    cases = cache.manifest.cases
    groups = [case.extra["group"] for case in cases]
    return TrialPredictions([case.name for case in cases], groups, cache.targets, y_prob, bundle.decision.predict(y_prob))


def milliseconds(bundle: Bundle, pixels: np.ndarray) -> float:
    """Returns the processor time of one slice in ms."""
    classifier = Classifier(bundle, backend=GraphBackend("onnxruntime", to_onnx(bundle), 1))
    times = []
    for _ in range(CALLS + 10):
        start = time.process_time()
        classifier.logits(pixels)
        times.append(time.process_time() - start)
    return 1000 * float(np.median(times[10:]))


def row_of(name: str, bundles: Sequence[Bundle], cache: PixelCache) -> dict[str, str]:
    """Returns the row of a model."""
    samples = {(name, i): hold_out_sample(predictions(bundle, cache)) for i, bundle in enumerate(bundles)}
    bootstrap = SeedBootstrap(samples)
    count = bundles[0].architecture.get("count", 1) * (2 if bundles[0].decision.flip_average else 1)
    row = {"model": name, "forward passes": str(count)}
    for metric, title in METRICS.items():
        estimate = bootstrap.mean(name, metric).estimate
        values = {title: estimate.estimate, f"{title} low": estimate.ci_low, f"{title} high": estimate.ci_high}
        row |= {key: "" if value is None else f"{value:.3f}" for key, value in values.items()}
    return row | {"ms a slice": f"{milliseconds(bundles[0], np.asarray(cache.pixels[:1])):.1f}"}


def main() -> None:
    """Measures all models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    table = Manifest.open(folder / "split.csv")
    holdout = table.subset(i for i, case in enumerate(table.cases) if case.split == "test")
    cache = PixelCache.open(holdout, Bundle.load(folder / "bundle").preprocess, folder / "cache")
    rows = []
    for name, bundles in models(folder):
        rows.append(row_of(name, bundles, cache))
        print(rows[-1], flush=True)
    with (Path(__file__).parent / "results" / "ensembles.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
