"""Measures time per image and memory of `reslink predict FOLDER` by number of files; used by prediction.py."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from reslink.cli.commands.bench import run_measured

LINKS = 30_000
"""Maximum number of hard links to a file; file systems allow 65,000 or fewer."""


def report(bundle: str, images: Sequence[bytes], most: int, clock: str) -> None:
    """Prints a row for 1, 10, 100 … files; each is a run of the command in a child process.

    Args:
        bundle: Bundle with a ``model.onnx``.
        images: Contents of the files; the folder repeats them under different names.
        most: Number of files in the last row.
        clock: ``wall`` or ``cpu``.
    """
    print(f"\nreslink predict FOLDER --json as a process, {clock} clock\n")
    print("| files | seconds | ms an image beyond the first row | peak memory, MiB |\n|--:|--:|--:|--:|")
    first = 0.0
    for count in _counts(most):
        with tempfile.TemporaryDirectory(prefix="reslink-growth-") as folder:
            _fill(Path(folder), images, count)
            words = [sys.executable, "-m", "reslink", "predict", str(bundle), f"{folder}/files", "--json", "--device", "cpu"]
            cost = run_measured(words)
        if cost.exit_code:
            raise SystemExit(f"reslink predict failed on {count} files with exit code {cost.exit_code}")
        seconds = cost.cpu_seconds if clock == "cpu" else cost.seconds
        each = f"{1000 * (seconds - first) / (count - 1):.2f}" if count > 1 else "–"
        first = first or seconds
        print(f"| {count:,} | {seconds:.1f} | {each} | {cost.peak_memory_mib:.0f} |", flush=True)


def _counts(most: int) -> Iterator[int]:
    count = 1
    while count <= most:
        yield count
        count *= 10


def _fill(folder: Path, images: Sequence[bytes], count: int) -> None:
    (folder / "files").mkdir()
    for i in range(count):
        source = folder / f"{i % len(images)}_{i // (len(images) * LINKS)}.png"
        if not source.exists():
            source.write_bytes(images[i % len(images)])
        os.link(source, folder / "files" / f"{i:07d}.png")
