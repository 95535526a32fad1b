"""Finds the folder of a bundle, and its name."""

from __future__ import annotations

import logging
from pathlib import Path

from reslink.bundles import zoo
from reslink.bundles.record import BUNDLE_JSON, WEIGHTS, read_record
from reslink.errors import BundleError

_log = logging.getLogger(__name__)

_BUNDLE_FORMAT = "A bundle is a folder with bundle.json and model.safetensors"


def find_bundle(folder: str | Path) -> Path:
    """Returns the folder of a bundle.

    A run stands for its calibrated bundle, if ``reslink calibrate`` has written one into the folder of the run, otherwise for
    ``bundle/``. A warning says which one was taken if there is a choice.

    Args:
        folder: The folder, a run that holds it, or the name of a shipped bundle (:func:`reslink.bundles.zoo.resolve`).

    Raises:
        BundleError: If there is none, with the nearest folder or name, or if a run holds several calibrated bundles.
    """
    path = zoo.resolve(folder)
    if path.is_file():
        raise BundleError(f"{folder} is a file", _BUNDLE_FORMAT, f"Give the folder instead: {path.parent}")
    if not path.is_dir():
        is_bundle = (path.parent / BUNDLE_JSON).is_file()
        other = f"Did you mean {path.parent}?" if is_bundle else "Check the path, or run reslink train DATA --out RUN"
        next_step = _pretrained_hint(path, other)
        raise BundleError(f"{folder} does not exist", _BUNDLE_FORMAT, next_step)
    if (path / BUNDLE_JSON).is_file():
        return _check_weights_exist(path)
    if (path / "bundle" / BUNDLE_JSON).is_file():
        return _check_weights_exist(bundle_of_run(path))
    raise BundleError(f"{folder} is not a bundle: it holds no {BUNDLE_JSON}", _BUNDLE_FORMAT, _next_step(path))


def bundle_of_run(run: Path) -> Path:
    """Returns the bundle that a finished run stands for, as :func:`find_bundle` does, without a look at its weights."""
    trained = run / "bundle"
    weights, _ = _weights_and_calibration(trained)
    calibrated = [
        path.parent
        for path in sorted(run.glob(f"*/{BUNDLE_JSON}"))
        if path.parent != trained and _weights_and_calibration(path.parent) == (weights, True)
    ]
    if weights is None or not calibrated:
        return trained
    if len(calibrated) > 1:
        raise BundleError(
            f"{run} holds {len(calibrated)} calibrated bundles: {', '.join(folder.name for folder in calibrated)}",
            "A run stands for one bundle",
            f"Give the folder of one of them, such as {calibrated[-1]}",
        )
    _log.warning("%s stands for its calibrated bundle, %s.", run, calibrated[0])
    return calibrated[0]


def _weights_and_calibration(folder: Path) -> tuple[str | None, bool]:
    """Returns the SHA-256 of the weights of a bundle, and whether it was calibrated; None if it cannot be read."""
    try:
        record = read_record(folder / BUNDLE_JSON)
    except BundleError:
        return None, False
    return record.weights.sha256, record.decision.fitted_on is not None


def _check_weights_exist(path: Path) -> Path:
    if not (path / WEIGHTS).is_file():
        raise BundleError(f"{path} holds no {WEIGHTS}", _BUNDLE_FORMAT, "Copy the whole folder of the bundle, or train again")
    return path


def _pretrained_hint(path: Path, otherwise: str) -> str:
    if path.name in zoo.names():
        return f"Write {path.name} without ./ or another folder to use the shipped bundle of that name"
    return otherwise


def _next_step(path: Path) -> str:
    inside = sorted(file.parent for file in path.glob(f"*/{BUNDLE_JSON}"))
    if inside:
        return f"Did you mean {inside[0]}?"
    if (path / "checkpoints").is_dir() or (path / "config.yaml").is_file():
        return "This run is not finished; resume it with reslink train DATA --out RUN --resume"
    return _pretrained_hint(path, "Give a folder that reslink train wrote, such as RUN/bundle")


def bundle_name(folder: Path) -> str:
    """Returns the name of a bundle: that of its folder, or of the run that holds it in ``bundle/``."""
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "bundle" and resolved.parent.name else resolved.name
