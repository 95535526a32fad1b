"""The folder of a bundle: found, and replaced as a whole."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from reslink.bundles import zoo
from reslink.bundles.record import BUNDLE_JSON, WEIGHTS
from reslink.errors import BundleError, StorageError

_ALLOWED = "A bundle is a folder with bundle.json and model.safetensors"


def find_bundle(folder: str | Path) -> Path:
    """Returns the folder of a bundle, given it, the run that holds it in ``bundle/``, or the name of a shipped bundle.

    This is the one place where a name becomes a folder (:func:`reslink.bundles.zoo.resolve`).

    Raises:
        BundleError: If there is none, with the nearest folder or name that is one.
    """
    path = zoo.resolve(folder)
    if path.is_file():
        raise BundleError(f"{folder} is a file", _ALLOWED, f"Give the folder instead: {path.parent}")
    if not path.is_dir():
        advice = _elsewhere(path, "Check the path, or run reslink train DATA --out RUN")
        raise BundleError(f"{folder} does not exist", _ALLOWED, advice)
    for place in (path, path / "bundle"):
        if (place / BUNDLE_JSON).is_file():
            return _with_weights(place)
    raise BundleError(f"{folder} is not a bundle: it holds no {BUNDLE_JSON}", _ALLOWED, _advice(path))


def _with_weights(path: Path) -> Path:
    if not (path / WEIGHTS).is_file():
        raise BundleError(f"{path} holds no {WEIGHTS}", _ALLOWED, "Copy the whole folder of the bundle, or train again")
    return path


def _elsewhere(path: Path, otherwise: str) -> str:
    if path.name in zoo.names():
        return f"Write {path.name} alone, without ./ or another folder, for the bundle of that name that ships with reslink"
    return otherwise


def _advice(path: Path) -> str:
    inside = sorted(found.parent for found in path.glob(f"*/{BUNDLE_JSON}"))
    if inside:
        return f"Did you mean {inside[0]}"
    if (path / "checkpoints").is_dir() or (path / "config.yaml").is_file():
        return "This run has not ended: go on with reslink train DATA --out RUN --resume"
    return _elsewhere(path, "Give a folder that reslink train wrote, such as RUN/bundle")


@contextlib.contextmanager
def replacing(target: Path, mark: str = BUNDLE_JSON, what: str = "bundle") -> Iterator[Path]:
    """Gives an empty folder to fill, which takes the place of ``target`` when the block ends without an error.

    An older one is moved aside first and moved back if the new one cannot take its place. Killed between these two
    renames, the older one is left beside ``target`` under a hidden name.

    Args:
        target: The folder.
        mark: The file by which an older one is known; no other folder with content is replaced.
        what: What the folder is called.

    Raises:
        BundleError: If ``target`` is a file or a folder that holds something else.
        UsageError: If ``target`` is a shipped bundle.
        StorageError: If the folder cannot be made or renamed.
    """
    check_replaceable(target, mark, what)
    with _storage_errors(target, what):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        part.mkdir()
    try:
        yield part
        with _storage_errors(target, what):
            _swap(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_replaceable(target: Path, mark: str = BUNDLE_JSON, what: str = "bundle") -> None:
    """Refuses a folder that :func:`replacing` would refuse; asked before long work whose result goes there.

    Args:
        target: The folder.
        mark: As for :func:`replacing`.
        what: As for :func:`replacing`.

    Raises:
        BundleError: If ``target`` is a file or a folder that holds something else.
        UsageError: If ``target`` is a shipped bundle.
    """
    zoo.refuse_shipped(target)
    if not target.exists():
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / mark).is_file()):
        article = "an" if what[0] in "aeiou" else "a"
        raise BundleError(
            f"{target} exists and is not {article} {what}",
            f"{article.capitalize()} {what} is written to a new folder, an empty one, or over an older {what}",
            "Choose another folder",
        )


def _swap(part: Path, target: Path) -> None:
    if not target.exists():
        part.rename(target)
        return
    old = part.with_suffix(".old")
    target.rename(old)
    try:
        part.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _storage_errors(target: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The {what} {target} could not be written: {error.strerror or error}",
            "reslink needs a folder that it may write to, with free space",
            "Free some space or choose another folder, then run the same command again",
        ) from error


def called(folder: Path) -> str:
    """Returns what a bundle is called: its folder, or the run that it lies in."""
    whole = folder.resolve()
    return whole.parent.name if whole.name == "bundle" and whole.parent.name else whole.name
