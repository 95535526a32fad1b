"""Measures the decision of a bundle: coverage of conformal sets over random draws, and what the gate refuses.

    python benchmarks/decision.py RUN DATA --other MR4 --other FLAIR --draws 100

RUN is a run folder with ``bundle`` and ``splits.csv``. DATA is the data set it was trained on; its validation and test parts
are used, which the network did not learn from. Each draw divides their groups at random into calibration and test halves.
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
from reslink.evaluation.fitting import NO_GATE, NO_SETS, Evidence, Wishes, fit
from reslink.imaging.image import Image
from reslink.imaging.reading import find_images, read_image
from reslink.inference.classifier import Classifier, Outputs
from reslink.labels import Labels


def of_data(classifier: Classifier, manifest: Manifest, folder: Path) -> tuple[Outputs, Manifest]:
    """Runs the network over a data set."""
    cache = PixelCache.open(manifest, classifier.bundle.preprocess, folder)
    rows, found, _ = run_network(classifier, cache, np.arange(len(cache)), 32, statistics=True)
    return found, cache.manifest.subset(rows.tolist())


def of_images(classifier: Classifier, images: list[Image]) -> Outputs:
    """Runs the network over images in memory."""
    pixels = np.stack([classifier.bundle.preprocess.pixels(image) for image in images])
    parts = [classifier.outputs(pixels[i : i + 32], statistics=True) for i in range(0, len(pixels), 32)]
    return Outputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("logits", "features", "statistics")))


def strangers(seed: int = 0) -> dict[str, list[Image]]:
    """Returns images of no head: photographs, noise, gradients, text, blank ones, and files that pydicom brings."""
    import pydicom
    from PIL import Image as Picture
    from PIL import ImageDraw
    from sklearn.datasets import load_sample_images

    rng, y, x = np.random.default_rng(seed), *np.mgrid[:256, :256] / 255
    made: dict[str, list[np.ndarray]] = {"photograph": [], "noise": [], "gradient": [], "text": [], "blank": []}
    for photo in load_sample_images().images:
        for _ in range(50):
            side = int(rng.integers(150, 427))
            top, left = rng.integers(0, photo.shape[0] - side + 1), rng.integers(0, photo.shape[1] - side + 1)
            made["photograph"].append(photo[top : top + side, left : left + side].mean(axis=2))
    for i in range(50):
        made["noise"].append(rng.normal(rng.uniform(50, 200), rng.uniform(10, 80), (256, 256)))
        angle = rng.uniform(0, 6.3)
        ramp = x * np.cos(angle) + y * np.sin(angle)
        made["gradient"].append((ramp - ramp.min()) * rng.uniform(80, 180))
        page = Picture.new("L", (256, 256), 255 * (i % 2))
        for row in range(6, 250, int(rng.integers(10, 18))):
            words = "".join(rng.choice(list("abcdefgh ijklmn opqrs tuvw"), 42))
            ImageDraw.Draw(page).text((6, row), words, fill=255 * (1 - i % 2))
        made["text"].append(np.asarray(page, np.float64))
        made["blank"].append(np.full((256, 256), 255 * i / 49))
    found = {
        kind: [Image(np.clip(array, 0, 255).astype(np.float32), "grey", white=255.0) for array in arrays]
        for kind, arrays in made.items()
    }
    found["dicom of other things"] = _readable(sorted(Path(pydicom.__file__).parent.glob("data/test_files/*.dcm")))
    return found


def images_of(folder: Path) -> list[Image]:
    """Returns the images of a folder that can be read, of a volume the first two slices.

    Raises:
        UsageError: If there is none.
    """
    images = _readable(find_images([folder]))
    if not images:
        raise UsageError(
            f"No image of {folder} can be read", "--series names a folder of images or slices", "Name another folder"
        )
    return images


def _readable(paths: list[Path]) -> list[Image]:
    images = []
    for path in paths:
        try:
            images += [one for one in read_image(path).slices()[:2] if min(one.pixels.shape) >= 40]
        except Exception:  # noqa: BLE001  (many of these files are broken on purpose)
            continue
    return images


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--other", type=Path, action="append", default=[], help="a data set that is to be refused")
    parser.add_argument("--series", type=Path, action="append", default=[], help="files of which to say the share refused")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "reslink-decision")
    try:
        print(json.dumps(measured(parser.parse_args()), indent=2))
    except ReslinkError as error:
        raise SystemExit(str(error)) from None


def measured(options: argparse.Namespace) -> dict[str, object]:
    """Returns what is printed."""
    classifier = Classifier.load(options.run)
    rows = list(csv.DictReader((options.run / "splits.csv").open(newline="")))
    part, group = ({row["sample_id"]: row[key] for row in rows} for key in ("split", "group"))
    manifest = Manifest.open(options.data)
    unseen = manifest.subset(i for i, case in enumerate(manifest.cases) if part.get(case.name) in ("validation", "test"))
    found, unseen = of_data(classifier, unseen, options.cache)
    labels = classifier.labels
    assert found.statistics is not None, "of_data asks for them"
    truth = np.array([labels.index(case.label) for case in unseen.cases])
    cases = Evidence(
        found.logits.astype(float), found.features.astype(float), found.statistics, truth, [group[c.name] for c in unseen.cases]
    )
    others = {}
    for folder in options.other:
        data = Manifest.open(folder)
        some = np.sort(np.random.default_rng(0).permutation(len(data))[:600])
        others[folder.name] = of_data(classifier, replace(data, cases=data.subset(some).cases), options.cache)[0]
    others |= {kind: of_images(classifier, images) for kind, images in strangers().items()}
    series = {folder.name: of_images(classifier, images_of(folder)) for folder in options.series}
    return {
        "n": len(cases),
        "n_groups": cases.n_groups,
        "draws": options.draws,
        "sets": coverage(cases, labels, options.draws),
        "gate": gate(cases, labels, others | series, min(options.draws, 20)),
    }


def halves(cases: Evidence, draws: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yields the rows of random calibration and test halves, by group."""
    split = GroupShuffleSplit(draws, test_size=0.5, random_state=0)
    yield from split.split(np.zeros(len(cases)), groups=np.asarray(cases.groups))


def _too_few(notes: list[str]) -> UsageError:
    why = "; ".join(note for note in notes if note.startswith((NO_GATE, NO_SETS)))
    return UsageError(
        f"Half of the unseen part is too little: {why}",
        "Each draw fits the decision on one half of the validation and test parts",
        "Give a run with larger ones",
    )


def coverage(cases: Evidence, labels: Labels, draws: int) -> dict[str, dict[str, float]]:
    """Returns mean and spread of the coverage of 95 % sets, their size, and the empty ones."""
    found = {}
    for per_class in (False, True):
        held, size, empty = [], [], []
        for inner, outer in halves(cases, draws):
            decision, notes = fit(cases.take(inner), Wishes(per_class=per_class, ood=False), labels)
            sets = decision.judge(cases.logits[outer]).sets
            if sets is None:
                raise _too_few(notes)
            held.append(sets[np.arange(len(outer)), cases.y_true[outer]].mean())
            size.append(sets.sum(axis=1).mean())
            empty.append((sets.sum(axis=1) == 0).mean())
        found["per class" if per_class else "all"] = {
            "coverage": float(np.mean(held)),
            "deviation": float(np.std(held)),
            "size": float(np.mean(size)),
            "empty": float(np.mean(empty)),
        }
    return found


def gate(cases: Evidence, labels: Labels, others: dict[str, Outputs], draws: int) -> dict[str, dict[str, float]]:
    """Returns the share of the test half that is kept, and for each other kind AUROC and share refused."""
    kept: list[float] = []
    areas: dict[str, list[float]] = {name: [] for name in others}
    refused: dict[str, list[float]] = {name: [] for name in others}
    for inner, outer in halves(cases, draws):
        decision, notes = fit(cases.take(inner), Wishes(coverage=None), labels)
        near = decision.judge(cases.logits[outer], cases.features[outer], cases.statistics[outer]).ood_score
        if near is None:
            raise _too_few(notes)
        kept.append((near <= 1).mean())
        for name, one in others.items():
            far = decision.judge(one.logits, one.features, one.statistics).ood_score
            assert far is not None, "it is the same gate"
            truth = np.concatenate([np.zeros(len(near)), np.ones(len(far))])
            areas[name].append(roc_auc_score(truth, np.concatenate([near, far])))
            refused[name].append((far > 1).mean())
    found = {"kept": {"mean": float(np.mean(kept)), "least": float(np.min(kept))}}
    return found | {
        name: {"n": len(one.logits), "auroc": float(np.mean(areas[name])), "refused": float(np.mean(refused[name]))}
        for name, one in others.items()
    }


if __name__ == "__main__":
    main()
