"""``reslink info``: what this installation can do, for people and for machines."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from reslink import __version__
from reslink.cli.console import RESEARCH, Console
from reslink.cli.options import Json

EXAMPLES = (
    "reslink info",
    "reslink info --json",
)

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "opencv-python-headless",
    "pillow",
    "pydicom",
    "nibabel",
    "safetensors",
    "accelerate",
)
EXIT_CODES = {
    "0": "done",
    "1": "an input or a write failed; the rest was done where it could be",
    "2": "wrong option, setting, data set or bundle",
    "3": "a check said no",
    "130": "stopped by Ctrl-C",
}
_READS = {
    "pictures": ["PNG", "JPEG", "TIFF", "WebP", "BMP", "npy"],
    "dicom": ["single frame", "multi-frame", "enhanced CT", "enhanced MR", "series folder"],
    "nifti": [".nii", ".nii.gz"],
}


def info(console: Console, json: Json = False) -> None:
    """Print versions, variants, formats, windows, metrics, devices and exit codes. Opens no connection."""
    facts = capabilities()
    if json:
        console.json(facts, indent=2)
        return
    console.table(("what", "this installation"), [(name, _words(value)) for name, value in facts.items()])
    console.research_use_only()


def capabilities() -> dict[str, Any]:
    """Returns what this installation can do, from the same tables that the verbs use."""
    from reslink.bundles import zoo
    from reslink.metrics.classification import NAMES
    from reslink.networks.reslink import VARIANTS

    return {
        "name": "reslink",
        "version": __version__,
        "intended_use": RESEARCH,
        "python": platform.python_version(),
        "packages": {name: _package(name) for name in _PACKAGES},
        "devices": _devices(),
        "variants": list(VARIANTS),
        "models": zoo.names(),
        "reads": _READS,
        "windows": _windows(),
        "metrics": list(NAMES),
        "exit_codes": EXIT_CODES,
        "bundle_schema_version": _schema_version(),
    }


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _windows() -> list[str]:
    from typing import get_args

    from reslink.imaging.preprocess import Preprocess

    return list(get_args(Preprocess.model_fields["window"].annotation))


def _schema_version() -> int:
    from reslink.bundles.bundle import SCHEMA_VERSION

    return SCHEMA_VERSION


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_words(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
