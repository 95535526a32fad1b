"""Measures the near-duplicate search: recall of planted copies, time and memory, and the index of fingerprints.

Run: python benchmarks/near_duplicates.py planted [--patients 60] [--seed 0] [--index]
     python benchmarks/near_duplicates.py copies DATA [--images 150] [--seed 1]
     python benchmarks/near_duplicates.py fingerprints DATA [--seed 0]
     python benchmarks/near_duplicates.py series DATA [--seed 0]
     python benchmarks/near_duplicates.py search [--counts 10000 20000 30000] [--index]
     python benchmarks/near_duplicates.py index [--counts 10000 100000]

- ``planted`` searches slices of phantoms (CT, T1, FLAIR, T2; two neighboring slices per patient, 192×192) and changed
  copies of them. ``--index`` searches as among more than 50,000 images.
- ``copies`` does the same with images of a data set.
- ``fingerprints`` splits a data set by group, 30 % held out, and counts the held-out images that the fingerprints of
  the rest flag.
- ``series`` takes the slices of a patient as a series, and fingerprints the series of half of the patients. It counts the
  copies of these series that are found, of which all slices are changed alike, and the flagged series of the other patients.
- ``search`` times the search among different thumbnails, a twentieth of them copies.
- ``index`` times the index on random fingerprints, a twentieth of them copies in which 5 to 15 % of the bits differ.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.cache.pixel_cache import MATCHED_SHARE
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates import fingerprints, hamming_index, similar_rows
from reslink.datasets.near_duplicates.groups import find_duplicates, leakage_groups
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.datasets.phantom.cohort import render_patient
from reslink.datasets.phantom.duplicates import DUPLICATE_KINDS, GrayImage
from reslink.datasets.phantom.tissue import Sequence as MrSequence
from reslink.datasets.phantom.writers import to_gray
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image

SEQUENCES: tuple[MrSequence, ...] = ("CT", "T1", "CT", "FLAIR", "CT", "T2")
COPIED = 20
QUERIES = 2048
FAR = 215
"""Number of different bits, of 1,024, above which a pair is no copy."""


def slices(patients: int, seed: int) -> list[GrayImage]:
    """Renders two slices per patient."""
    pictures = []
    for index in range(patients):
        sequence = SEQUENCES[index % len(SEQUENCES)]
        patient = render_patient(seed, index + 1, tumor=bool(index % 2), sequence=sequence, slices=2, size=192)
        pictures += [to_gray(plane.pixels, sequence == "CT") for plane in patient.slices]
    return pictures


def planted(patients: int, seed: int) -> dict[str, object]:
    """Returns the recall of each kind of copy and the precision over all pairs."""
    rng, pictures = np.random.default_rng(seed), slices(patients, seed)
    source, kinds = list(range(len(pictures))), [""] * len(pictures)
    for kind, change in DUPLICATE_KINDS.items():
        for row in rng.permutation(2 * patients)[:patients].tolist():
            source.append(row)
            kinds.append(kind)
            pictures.append(change(pictures[row], rng))
    thumbnails = np.stack([make_thumbnail(Image(picture.astype(np.float32), "gray", white=255)) for picture in pictures])
    start = time.process_time()
    pairs = {(pair.first, pair.second) for pair in find_duplicates(thumbnails)}
    seconds = time.process_time() - start
    of = np.array(source)
    first = 2 * patients
    hits = {kind: [(source[i], i) in pairs for i in range(first, len(source)) if kinds[i] == kind] for kind in DUPLICATE_KINDS}
    stored = fingerprints.make_fingerprints(thumbnails[:first])
    links = [(row, i + first) for i, row, _ in fingerprints.match_fingerprints(stored, thumbnails[first:])]
    matched = {i for row, i in links if of[i] == row}
    return {
        "images": len(source),
        "recall": float(np.mean([hit for row in hits.values() for hit in row])),
        "precision": float(np.mean([of[i] == of[j] for i, j in pairs])),
        "pairs": len(pairs),
        "cpu_seconds": seconds,
        "recall_by_kind": {kind: float(np.mean(row)) for kind, row in hits.items()},
        "fingerprint_recall": len(matched) / (len(source) - first),
        "fingerprint_precision": float(np.mean([of[i] == row for row, i in links])),
    }


def thumbnails_of(job: tuple[Path, int | None]) -> list[GrayImage]:
    """Returns the thumbnail of an image and, with a seed, those of a copy of each kind."""
    path, seed = job
    image = read_image(path)
    if seed is None:
        return [make_thumbnail(image)]
    low, high = float(image.pixels.min()), float(image.pixels.max())
    gray = np.clip((image.pixels - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    rng = np.random.default_rng(seed)
    changed = [change(gray, rng) for change in DUPLICATE_KINDS.values()]
    return [make_thumbnail(image), *(make_thumbnail(Image(c.astype(np.float32), "gray", white=255)) for c in changed)]


def copies(data: Path, count: int, seed: int) -> dict[str, object]:
    """Returns the recall of copies of real images, and the pairs of different images that were found."""
    manifest = Manifest.open(data)
    rows = np.random.default_rng(seed).permutation(len(manifest))[:count].tolist()
    with ProcessPoolExecutor() as pool:
        jobs = [(manifest.cases[row].path, seed * 1000 + i) for i, row in enumerate(rows)]
        thumbnails = list(pool.map(thumbnails_of, jobs, chunksize=5))
    width = len(DUPLICATE_KINDS) + 1
    pairs = {(pair.first, pair.second) for pair in find_duplicates(np.concatenate(thumbnails))}
    recall = {
        kind: float(np.mean([(i * width, i * width + k) in pairs for i in range(len(rows))]))
        for k, kind in enumerate(DUPLICATE_KINDS, start=1)
    }
    across = sorted({(rows[a // width], rows[b // width]) for a, b in pairs if a // width != b // width})
    return {
        "images": len(rows),
        "recall": float(np.mean(list(recall.values()))),
        "recall_by_kind": recall,
        "pairs_of_different_images": [[manifest.cases[a].name, manifest.cases[b].name] for a, b in across],
    }


def flagged_by_fingerprints(data: Path, seed: int) -> dict[str, object]:
    """Returns the number of images of other groups that the fingerprints of a training split flag."""
    manifest = Manifest.open(data)
    with ProcessPoolExecutor() as pool:
        thumbnails = np.concatenate(list(pool.map(thumbnails_of, [(case.path, None) for case in manifest.cases], chunksize=40)))
    pairs = find_duplicates(thumbnails, [case.patient_id for case in manifest.cases])
    groups = np.array(leakage_groups(manifest, thumbnails, pairs))
    names = sorted(set(groups.tolist()))
    held_out = set(np.random.default_rng(seed).permutation(names)[: int(0.3 * len(names))].tolist())
    other = np.array([group in held_out for group in groups])
    flagged = fingerprints.match_fingerprints(fingerprints.make_fingerprints(thumbnails[~other]), thumbnails[other])
    return {
        "images": len(manifest),
        "groups": len(names),
        "pairs": len(pairs),
        "mirrored_or_rotated": sum(pair.orientation != 0 for pair in pairs),
        "held_out": int(other.sum()),
        "flagged": len({query for query, _, _ in flagged}),
    }


def copied_slices(job: tuple[Path, str, int]) -> GrayImage:
    """Returns the thumbnail of a changed copy of a slice; slices with the same seed are changed alike."""
    path, kind, seed = job
    gray = np.asarray(read_image(path).pixels).astype(np.uint8)
    changed = DUPLICATE_KINDS[kind](gray, np.random.default_rng(seed))
    return make_thumbnail(Image(changed.astype(np.float32), "gray", white=255))


def series(data: Path, seed: int) -> dict[str, object]:
    """Returns how many copies of known series, and how many series of other patients, the fingerprints find."""
    manifest = Manifest.open(data)
    patients = sorted({case.patient_id for case in manifest.cases if case.patient_id})
    known = np.random.default_rng(seed).permutation(patients)[: len(patients) // 2].tolist()
    slices_of = {name: [case.path for case in manifest.cases if case.patient_id == name] for name in patients}

    def matched(jobs: Sequence[tuple[Path, str, int]], sizes: Sequence[int]) -> list[float]:
        """Returns the share of the slices of each series that match."""
        thumbnails = np.stack(list(pool.map(copied_slices, jobs, chunksize=20)))
        hits = {query for query, _, _ in fingerprints.match_fingerprints(stored, thumbnails)}
        ends = np.cumsum([0, *sizes]).tolist()
        return [sum(row in hits for row in range(start, end)) / (end - start) for start, end in itertools.pairwise(ends)]

    with ProcessPoolExecutor() as pool:
        own = [(path, "exact", 0) for name in known for path in slices_of[name]]
        stored = fingerprints.make_fingerprints(np.stack(list(pool.map(copied_slices, own, chunksize=20))))
        sizes = [len(slices_of[name]) for name in known]
        shares = {
            kind: matched([(path, kind, seed + i) for i, name in enumerate(known) for path in slices_of[name]], sizes)
            for kind in DUPLICATE_KINDS
        }
        others = [name for name in patients if name not in known]
        of_others = matched(
            [(path, "exact", 0) for name in others for path in slices_of[name]], [len(slices_of[name]) for name in others]
        )
    return {
        "copied_series": len(known),
        "found_by_kind": {kind: sum(share >= MATCHED_SHARE for share in row) for kind, row in shares.items()},
        "least_share_by_kind": {kind: min(row) for kind, row in shares.items()},
        "other_series": len(others),
        "flagged_of_others": sum(share >= MATCHED_SHARE for share in of_others),
        "highest_share_of_others": max(of_others),
    }


def different_heads(count: int, file: Path) -> NDArray[np.uint8]:
    """Writes different thumbnails to a file, the last twentieth of which are turned copies of the first; returns them."""
    rng, radius = np.random.default_rng(0), np.hypot(*(np.mgrid[:64, :64] - 31.5) / np.array([30, 26])[:, None, None])
    heads = np.lib.format.open_memmap(file, "w+", np.uint8, (count, 64, 64))
    for start in range(0, count, 1000):
        noise = rng.normal(size=(min(1000, count - start), 64, 64)).astype(np.float32)
        gray = 110 + 200 * ndimage.gaussian_filter(noise, (0, 2, 2)) + 8 * rng.normal(size=noise.shape).astype(np.float32)
        heads[start : start + len(gray)] = np.where(radius < 0.9, np.clip(gray, 20, 200), np.where(radius < 1, 255, 0))
    copied = count // COPIED
    heads[-copied:] = np.rot90(heads[:copied], 1, axes=(1, 2))[:, :, ::-1]
    heads.flush()
    return np.asarray(np.load(file, mmap_mode="r"))


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Measures the largest memory of this process beyond that before the block, in MiB, without files that are mapped."""
    process, done = psutil.Process(), threading.Event()

    def anonymous() -> float:
        memory = process.memory_info()
        return float(memory.rss - memory.shared) / 2**20

    def watch() -> None:
        while not done.wait(0.02):
            largest[0] = max(largest[0], anonymous() - before)

    before, largest = anonymous(), [0.0]
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        done.set()
        thread.join()


def search(count: int) -> dict[str, float]:
    """Returns time and peak memory of the search among a number of thumbnails in a file."""
    with tempfile.TemporaryDirectory() as folder:
        heads = different_heads(count, Path(folder) / "heads.npy")
        cpu = time.process_time()
        with peak_memory() as peak:
            pairs = {(pair.first, pair.second) for pair in find_duplicates(heads)}
        seconds = time.process_time() - cpu
    copied = count // COPIED
    return {
        "images": count,
        "cpu_seconds": seconds,
        "milliseconds_each": seconds / count * 1000,
        "peak_mib": peak[0],
        "recall": float(np.mean([(i, count - copied + i) in pairs for i in range(copied)])),
        "false_pairs": len(pairs - {(i, count - copied + i) for i in range(copied)}),
    }


def index(count: int) -> dict[str, float]:
    """Returns time and recall of the index with one query per fingerprint."""
    rng, copied = np.random.default_rng(0), count // COPIED
    rows = rng.integers(0, 256, (count, hamming_index.BYTES), dtype=np.uint8)
    for i in range(copied):
        rows[count - copied + i] = rows[i] ^ np.packbits(rng.random(hamming_index.BITS) < rng.uniform(0.05, 0.15))
    start, hits, false = time.process_time(), set[int](), 0
    built = hamming_index.HammingIndex(rows)
    middle = time.process_time()
    for first in range(0, count, QUERIES):
        query, row, bits = built.nearest(rows[first : first + QUERIES], 2)  # itself, and its copy if it has one
        right = np.abs(query + first - row) == count - copied
        hits.update((query[right] + first).tolist())
        false += int(np.count_nonzero(~right & (query + first != row) & (bits <= FAR)))
    return {
        "fingerprints": count,
        "build_seconds": middle - start,
        "search_seconds": time.process_time() - middle,
        "microseconds_each": (time.process_time() - start) / count * 1e6,
        "recall": len(hits) / 2 / copied,
        "false_pairs": false / 2,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Prints one JSON object per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["planted", "copies", "fingerprints", "series", "search", "index"], help="measurement")
    parser.add_argument("data", type=Path, nargs="?", help="data set, for copies, fingerprints and series")
    parser.add_argument("--images", type=int, default=150, help="images to copy")
    parser.add_argument("--patients", type=int, default=60, help="synthetic patients")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--index", action="store_true", help="planted, search: use the index of large data sets")
    parser.add_argument("--counts", type=int, nargs="+", help="thumbnails of search, or fingerprints of index")
    options = parser.parse_args()
    if options.index:
        similar_rows.INDEX_MIN_IMAGES = similar_rows.BOUND_MIN_IMAGES = 0  # type: ignore[misc]  # as if the images were many
    if options.what == "planted":
        print(json.dumps(planted(options.patients, options.seed), indent=2))
    elif options.what in ("copies", "fingerprints", "series"):
        if options.data is None:
            parser.error(f"{options.what} needs DATA")
        if options.what == "copies":
            measured = copies(options.data, options.images, options.seed)
        else:
            measured = (series if options.what == "series" else flagged_by_fingerprints)(options.data, options.seed)
        print(json.dumps(measured, indent=2))
    else:
        measure, counts = {
            "search": (search, [10_000, 20_000, 30_000]),
            "index": (index, [10_000, 100_000]),
        }[options.what]
        for count in options.counts or counts:
            with ProcessPoolExecutor(1) as pool:
                print(json.dumps(pool.submit(measure, count).result()), flush=True)


if __name__ == "__main__":
    main()
