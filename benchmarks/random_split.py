"""Writes a table with the split of a public course notebook: oversampled first, then divided at random, image by image.

    python benchmarks/random_split.py DATA --out FOLDER [--seed 0] [--fractions 0.75 0.1 0.15]
    reslink train FOLDER/split.csv --out RUN --recipe benchmarks/reslink_notebook.yaml --allow-leakage

Images of the smaller classes are drawn again, with replacement, until all classes have the same number. Each drawn image is
a new file in FOLDER/drawn, because reslink counts a file that a table names twice only once; the column ``original`` names the
image in DATA. Patients and near duplicates are ignored, so the split leaks: use it only to measure how much.
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reslink.datasets.case import DEFAULT_FRACTIONS, Case
from reslink.datasets.manifest import Manifest
from reslink.datasets.split_table import write_split_table
from reslink.datasets.splits import assign_splits
from reslink.files import csv_text, write_atomic


def draw_again(manifest: Manifest, seed: int) -> list[Case]:
    """Returns the images of the smaller classes that are drawn again; with them all classes have the same number."""
    rng = np.random.default_rng(seed)
    counts = Counter(case.label for case in manifest.cases)
    drawn: list[Case] = []
    for label in manifest.labels.names:
        cases = [case for case in manifest.cases if case.label == label]
        drawn += [cases[i] for i in rng.integers(len(cases), size=max(counts.values()) - len(cases))]
    return drawn


def oversampled(manifest: Manifest, out: Path, seed: int) -> Manifest:
    """Copies the drawn images to ``out/drawn`` and returns the data set with them."""

    def rows() -> Iterator[dict[str, str]]:
        for case in manifest.cases:
            yield {"path": str(case.path.resolve()), "label": case.label, "original": case.name}
        for number, case in enumerate(draw_again(manifest, seed)):
            copy = out / "drawn" / f"{number:05d}_{case.path.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(case.path, copy)
            yield {"path": str(copy.resolve()), "label": case.label, "original": case.name}

    table = write_atomic(out / "images.csv", csv_text(["path", "label", "original"], list(rows())))
    return Manifest.open(table, manifest.labels.names)


def write_random_split(data: Path, out: Path, seed: int, fractions: tuple[float, float, float]) -> Path:
    """Writes ``out/split.csv`` and returns its path.

    Args:
        data: The data set. A split that it states is ignored.
        out: Folder for the table and the drawn images.
        seed: Seed of the drawing and of the split.
        fractions: Shares of training, validation and test images, the same in each class; sum 1.
    """
    manifest = oversampled(Manifest.open(data), out, seed)
    split_of = assign_splits(manifest, [case.name for case in manifest.cases], fractions, seed)
    return write_split_table(out / "split.csv", manifest, {"split": split_of})


def count_copied(manifest: Manifest) -> int:
    """Returns the number of test images with the very same image in the training split."""
    trained = {case.extra["original"] for case in manifest.cases if case.split == "train"}
    return sum(case.split == "test" and case.extra["original"] in trained for case in manifest.cases)


def main() -> None:
    """Writes the table and prints how many images were drawn again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the table and the drawn images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fractions", type=float, nargs=3, default=DEFAULT_FRACTIONS)
    options = parser.parse_args()
    table = write_random_split(options.data, options.out, options.seed, tuple(options.fractions))
    manifest = Manifest.open(table)
    drawn = len(manifest) - len({case.extra["original"] for case in manifest.cases})
    splits = Counter(case.split for case in manifest.cases)
    print(f"{table}: {len(manifest)} images, {drawn} of them drawn again; {dict(splits)}")
    print(f"{count_copied(manifest)} test images are also in the training split, near duplicates not counted")


if __name__ == "__main__":
    main()
