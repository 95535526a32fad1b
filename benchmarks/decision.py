"""Measures the decision of a bundle: coverage of conformal sets over random draws, and the share of inputs flagged as OOD.

    python benchmarks/decision.py RUN DATA --other MR4 --other FLAIR --draws 100

RUN is a run folder with ``bundle`` and ``splits.csv``. DATA is its data set. The script uses the validation and test
splits, which were not used for training. Each draw divides their groups at random into calibration and test halves.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError, UsageError
from reslink.evaluation.cases import run_network
from reslink.evaluation.fitting import NO_OOD_DETECTOR, NO_PREDICTION_SETS, CalibrationData, DecisionOptions, fit_decision
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image
from reslink.imaging.search import find_images
from reslink.inference.classifier import Classifier
from reslink.inference.outputs import Outputs
from reslink.labels import Labels


def outputs_of_data(classifier: Classifier, manifest: Manifest, folder: Path) -> tuple[Outputs, Manifest]:
    """Runs the network over a data set."""
    cache = PixelCache.open(manifest, classifier.bundle.preprocess, folder)
    rows, outputs, _ = run_network(classifier, cache, np.arange(len(cache)), 32, statistics=True)
    return outputs, cache.manifest.subset(rows.tolist())


def outputs_of_images(classifier: Classifier, images: list[Image]) -> Outputs:
    """Runs the network over images in memory."""
    pixels = np.stack([classifier.bundle.preprocess.pixels(image) for image in images])
    batches = [classifier.outputs(pixels[i : i + 32], statistics=True) for i in range(0, len(pixels), 32)]
    return Outputs(
        *(np.concatenate([getattr(batch, name) for batch in batches]) for name in ("logits", "features", "statistics"))
    )


def unrelated_images(seed: int = 0) -> dict[str, list[Image]]:
    """Returns images without a head: photographs, noise, gradients, text, blank images, and the test files of pydicom."""
    import pydicom
    from PIL import Image as Picture
    from PIL import ImageDraw
    from sklearn.datasets import load_sample_images

    rng, y, x = np.random.default_rng(seed), *np.mgrid[:256, :256] / 255
    arrays_by_kind: dict[str, list[np.ndarray]] = {"photograph": [], "noise": [], "gradient": [], "text": [], "blank": []}
    for photo in load_sample_images().images:
        for _ in range(50):
            side = int(rng.integers(150, 427))
            top, left = rng.integers(0, photo.shape[0] - side + 1), rng.integers(0, photo.shape[1] - side + 1)
            arrays_by_kind["photograph"].append(photo[top : top + side, left : left + side].mean(axis=2))
    for i in range(50):
        arrays_by_kind["noise"].append(rng.normal(rng.uniform(50, 200), rng.uniform(10, 80), (256, 256)))
        angle = rng.uniform(0, 6.3)
        ramp = x * np.cos(angle) + y * np.sin(angle)
        arrays_by_kind["gradient"].append((ramp - ramp.min()) * rng.uniform(80, 180))
        page = Picture.new("L", (256, 256), 255 * (i % 2))
        for row in range(6, 250, int(rng.integers(10, 18))):
            words = "".join(rng.choice(list("abcdefgh ijklmn opqrs tuvw"), 42))
            ImageDraw.Draw(page).text((6, row), words, fill=255 * (1 - i % 2))
        arrays_by_kind["text"].append(np.asarray(page, np.float64))
        arrays_by_kind["blank"].append(np.full((256, 256), 255 * i / 49))
    images = {
        kind: [Image(np.clip(array, 0, 255).astype(np.float32), "gray", white=255.0) for array in arrays]
        for kind, arrays in arrays_by_kind.items()
    }
    images["dicom of other things"] = _readable(sorted(Path(pydicom.__file__).parent.glob("data/test_files/*.dcm")))
    return images


def images_of(folder: Path) -> list[Image]:
    """Returns the readable images of a folder; of a volume the first two slices.

    Raises:
        UsageError: If no image can be read.
    """
    images = _readable(find_images([folder]))
    if not images:
        raise UsageError(
            f"No image of {folder} can be read", "--series takes a folder of images or slices", "Choose another folder"
        )
    return images


def _readable(paths: list[Path]) -> list[Image]:
    images = []
    for path in paths:
        try:
            images += [image for image in read_image(path).slices()[:2] if min(image.pixels.shape) >= 40]
        except Exception:  # noqa: BLE001  (many of these files are damaged on purpose)
            continue
    return images


def main() -> None:
    """Prints the measurements as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("data", type=Path, help="data set of the run")
    parser.add_argument("--other", type=Path, action="append", default=[], help="data set that should be flagged as OOD")
    parser.add_argument(
        "--series", type=Path, action="append", default=[], help="folder whose share of flagged images is printed"
    )
    parser.add_argument("--draws", type=int, default=100, help="random halves")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "reslink-decision", help="cache of decoded images"
    )
    try:
        print(json.dumps(measure(parser.parse_args()), indent=2))
    except ReslinkError as error:
        raise SystemExit(str(error)) from None


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Returns the measurements."""
    classifier = Classifier.load(options.run)
    rows = list(csv.DictReader((options.run / "splits.csv").open(newline="")))
    split_of, group_of = ({row["sample_id"]: row[key] for row in rows} for key in ("split", "group"))
    manifest = Manifest.open(options.data)
    unseen = manifest.subset(i for i, case in enumerate(manifest.cases) if split_of.get(case.name) in ("validation", "test"))
    outputs, unseen = outputs_of_data(classifier, unseen, options.cache)
    labels = classifier.labels
    assert outputs.statistics is not None, "outputs_of_data requests them"
    truth = np.array([labels.index(case.label) for case in unseen.cases])
    cases = CalibrationData(
        outputs.logits.astype(float),
        outputs.features.astype(float),
        outputs.statistics,
        truth,
        [group_of[c.name] for c in unseen.cases],
    )
    others = {}
    for folder in options.other:
        data = Manifest.open(folder)
        some = np.sort(np.random.default_rng(0).permutation(len(data))[:600])
        others[folder.name] = outputs_of_data(classifier, replace(data, cases=data.subset(some).cases), options.cache)[0]
    others |= {kind: outputs_of_images(classifier, images) for kind, images in unrelated_images().items()}
    series = {folder.name: outputs_of_images(classifier, images_of(folder)) for folder in options.series}
    return {
        "n": len(cases),
        "n_groups": cases.n_groups,
        "draws": options.draws,
        "sets": coverage(cases, labels, options.draws),
        "ood_detector": ood_detector(cases, labels, others | series, min(options.draws, 20)),
    }


def halves(cases: CalibrationData, draws: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yields the rows of random calibration and test halves, by group."""
    split = GroupShuffleSplit(draws, test_size=0.5, random_state=0)
    yield from split.split(np.zeros(len(cases)), groups=np.asarray(cases.groups))


def _too_few(notes: list[str]) -> UsageError:
    why = "; ".join(note for note in notes if note.startswith((NO_OOD_DETECTOR, NO_PREDICTION_SETS)))
    return UsageError(
        f"Half of the validation and test splits is too small: {why}",
        "Each draw fits the decision on one half of them",
        "Choose a run with larger splits",
    )


def coverage(cases: CalibrationData, labels: Labels, draws: int) -> dict[str, dict[str, float]]:
    """Returns mean and standard deviation of the coverage of 95 % sets, their size, and the share of empty sets."""
    results = {}
    for per_class in (False, True):
        held, size, empty = [], [], []
        for inner, outer in halves(cases, draws):
            decision, notes = fit_decision(cases.take(inner), DecisionOptions(per_class=per_class, ood=False), labels)
            sets = decision.decide(cases.logits[outer]).prediction_sets
            if sets is None:
                raise _too_few(notes)
            held.append(sets[np.arange(len(outer)), cases.y_true[outer]].mean())
            size.append(sets.sum(axis=1).mean())
            empty.append((sets.sum(axis=1) == 0).mean())
        results["per class" if per_class else "all"] = {
            "coverage": float(np.mean(held)),
            "deviation": float(np.std(held)),
            "size": float(np.mean(size)),
            "empty": float(np.mean(empty)),
        }
    return results


def ood_detector(cases: CalibrationData, labels: Labels, others: dict[str, Outputs], draws: int) -> dict[str, dict[str, float]]:
    """Returns the share of the test half that is not flagged, and for each other input AUROC and the share flagged."""
    not_flagged: list[float] = []
    areas: dict[str, list[float]] = {name: [] for name in others}
    flagged: dict[str, list[float]] = {name: [] for name in others}
    for inner, outer in halves(cases, draws):
        decision, notes = fit_decision(cases.take(inner), DecisionOptions(coverage=None), labels)
        near = decision.decide(cases.logits[outer], cases.features[outer], cases.statistics[outer]).ood_score
        if near is None:
            raise _too_few(notes)
        not_flagged.append((near <= 1).mean())
        for name, outputs in others.items():
            scores = decision.decide(outputs.logits, outputs.features, outputs.statistics).ood_score
            assert scores is not None, "the same detector"
            truth = np.concatenate([np.zeros(len(near)), np.ones(len(scores))])
            areas[name].append(roc_auc_score(truth, np.concatenate([near, scores])))
            flagged[name].append((scores > 1).mean())
    results = {"not_flagged": {"mean": float(np.mean(not_flagged)), "least": float(np.min(not_flagged))}}
    return results | {
        name: {"n": len(outputs.logits), "auroc": float(np.mean(areas[name])), "flagged": float(np.mean(flagged[name]))}
        for name, outputs in others.items()
    }


if __name__ == "__main__":
    main()
