"""Compares single networks, the ensemble, the distilled network and flip averaging on the hold-out of ``reslink cv --holdout``.

Run: python benchmarks/ensembles.py CV_FOLDER [--whole RUN]

RUN is a network of ``reslink train CV_FOLDER/split.csv``: trained on all folds at once, with the plain labels.

Writes benchmarks/results/ensembles.csv. Metrics are those of the hold-out in ``CV_FOLDER/split.csv``, with 95 % intervals over
its groups, and for single networks also over the networks of the folds. Each network runs once on each image and once on its
mirror image; ensembles and flip averages are computed from these logits. The time is processor time of torch for a slice after
preprocessing, one thread, the median of 50 calls: other work on the machine hardly changes it.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision, average_logits
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.experiments.cross_validation.tables import hold_out_sample
from reslink.experiments.runner.results import TrialPredictions
from reslink.experiments.runner.seed_statistics import SeedBootstrap
from reslink.inference.classifier import Classifier

METRICS = {"accuracy": "accuracy", "auroc": "AUROC", "ece": "ECE"}
CALLS = 50
BATCH = 32
Logits = np.ndarray


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        name: Its name.
        answers: Logits of the hold-out; several are those of several networks, whose metrics are averaged.
        decision: From logits to a class.
        bundle: The bundle whose time is measured.
        flip: Whether the mirror images are averaged.
    """

    name: str
    answers: Sequence[Logits]
    decision: Decision
    bundle: Bundle
    flip: bool


def members_of(folder: Path, ensemble: Bundle) -> list[Bundle]:
    """Returns the bundles of the networks of an ensemble, in order."""
    known = {bundle.weights_sha256: bundle for bundle in map(Bundle.load, (folder / "runs").glob("*/bundle"))}
    return [known[row["weights_sha256"]] for row in ensemble.provenance["cross_validation"]["members"]]


def outputs(bundle: Bundle, cache: PixelCache) -> tuple[Logits, Logits]:
    """Returns the logits of all images of a cache, and those of their mirror images."""
    classifier = Classifier.load(bundle, device="cpu", backend="torch")
    batches = [np.asarray(cache.pixels[rows]) for rows in cache.batches(np.arange(len(cache)), BATCH)]
    plain = np.concatenate([classifier.logits(batch) for batch in batches])
    return plain, np.concatenate([classifier.logits(np.ascontiguousarray(batch[..., ::-1])) for batch in batches])


def models(folder: Path, cache: PixelCache, whole: Path | None) -> Iterator[Model]:
    """Yields the models, with the network of a run that was trained on all folds."""
    ensemble = Bundle.load(folder / "bundle")
    members = members_of(folder, ensemble)
    each = [outputs(member, cache) for member in members]
    plain, flipped = [pair[0] for pair in each], [average_logits(pair) for pair in each]
    yield Model("single network", plain, Decision(), members[0], flip=False)
    yield Model("single network, flip-averaged", flipped, Decision(), members[0], flip=True)
    if (folder / "distilled").exists():
        distilled = Bundle.load(folder / "distilled")
        pair = outputs(distilled, cache)
        yield Model("distilled network", [pair[0]], Decision(), distilled, flip=False)
        yield Model("distilled network, flip-averaged", [average_logits(pair)], Decision(), distilled, flip=True)
    if whole is not None:
        network = Bundle.load(whole)
        yield Model("single network, trained on all folds", [outputs(network, cache)[0]], Decision(), network, flip=False)
    together = average_logits(plain)
    yield Model("ensemble of 5, not calibrated", [together], Decision(), ensemble, flip=False)
    yield Model("ensemble of 5, calibrated out of fold", [together], ensemble.decision, ensemble, flip=False)
    yield Model("ensemble of 5, not calibrated, flip-averaged", [average_logits(flipped)], Decision(), ensemble, flip=True)


def milliseconds(model: Model, pixels: np.ndarray) -> float:
    """Returns the processor time of one slice in ms."""
    bundle = replace(model.bundle, decision=model.decision.model_copy(update={"flip_average": model.flip}))
    classifier = Classifier.load(bundle, device="cpu", backend="torch")
    times = []
    for _ in range(CALLS + 5):
        start = time.process_time()
        classifier.logits(pixels)
        times.append(time.process_time() - start)
    return 1000 * float(np.median(times[5:]))


def row_of(model: Model, cache: PixelCache) -> dict[str, str]:
    """Returns the row of a model."""
    cases = cache.manifest.cases
    names, groups = [case.name for case in cases], [case.extra["group"] for case in cases]
    samples = {}
    for i, logits in enumerate(model.answers):
        y_prob = model.decision.probabilities(logits)
        answers = TrialPredictions(names, groups, cache.targets, y_prob, model.decision.predict(y_prob))
        samples[model.name, i] = hold_out_sample(answers)
    bootstrap = SeedBootstrap(samples)
    passes = model.bundle.architecture.get("count", 1) * (2 if model.flip else 1)
    row = {"model": model.name, "forward passes": str(passes)}
    for metric, title in METRICS.items():
        estimate = bootstrap.mean(model.name, metric).estimate
        values = {title: estimate.estimate, f"{title} low": estimate.ci_low, f"{title} high": estimate.ci_high}
        row |= {key: "" if value is None else f"{value:.3f}" for key, value in values.items()}
    return row | {"ms a slice": f"{milliseconds(model, np.asarray(cache.pixels[:1])):.1f}"}


def main() -> None:
    """Measures all models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--whole", type=Path, help="run that was trained on all folds")
    options = parser.parse_args()
    folder = options.folder
    torch.set_num_threads(1)
    table = Manifest.open(folder / "split.csv")
    holdout = table.subset(i for i, case in enumerate(table.cases) if case.split == "test")
    cache = PixelCache.open(holdout, Bundle.load(folder / "bundle").preprocess, folder / "cache")
    print(len(cache), "images in", len({case.extra["group"] for case in holdout.cases}), "groups", flush=True)
    rows = []
    for model in models(folder, cache, options.whole):
        rows.append(row_of(model, cache))
        print(rows[-1], flush=True)
    with (Path(__file__).parent / "results" / "ensembles.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
