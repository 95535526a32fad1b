"""``reslink info``: lists the capabilities of this installation."""

from __future__ import annotations

import platform
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from reslink import __version__
from reslink.cli.console import RESEARCH_USE, Console
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
    "0": "success",
    "1": "an input could not be read or an output could not be written; other inputs were processed",
    "2": "an option, setting, data set or bundle is invalid",
    "3": "a check failed",
    "130": "stopped by Ctrl-C",
}
_READS = {
    "pictures": ["PNG", "JPEG", "TIFF", "WebP", "BMP", "npy"],
    "dicom": ["single frame", "multi-frame", "enhanced CT", "enhanced MR", "series folder"],
    "nifti": [".nii", ".nii.gz"],
}


def info(console: Console, json: Json = False) -> None:
    """Print versions, network variants, formats, windows, metrics, devices and exit codes."""
    values = capabilities()
    if json:
        console.json(values, indent=2)
        return
    console.table(("property", "value"), [(name, _as_text(value)) for name, value in values.items()])
    console.research_use_only()


def capabilities() -> dict[str, Any]:
    """Returns the capabilities of this installation, from the same tables that the commands use."""
    from reslink.bundles import zoo
    from reslink.metrics.classification import METRIC_NAMES

    return {
        "name": "reslink",
        "version": __version__,
        "intended_use": RESEARCH_USE,
        "python": platform.python_version(),
        "packages": {name: _package_version(name) for name in _PACKAGES},
        "devices": _devices(),
        "variants": _variants(),
        "models": zoo.names(),
        "reads": _READS,
        "windows": _windows(),
        "metrics": list(METRIC_NAMES),
        "exit_codes": EXIT_CODES,
        "bundle_schema_version": _schema_version(),
    }


def _package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    if find_spec("torch") is None:
        return ["cpu"]
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _variants() -> list[str]:
    """Returns the network variants that can be trained: none without torch."""
    if find_spec("torch") is None:
        return []
    from reslink.networks.config import VARIANTS
    from reslink.networks.external_config import EXTERNAL_VARIANTS, external_source

    monai = find_spec("monai") is not None
    return [*VARIANTS, *(name for name in EXTERNAL_VARIANTS if monai or external_source(name) != "monai")]


def _windows() -> list[str]:
    from typing import get_args

    from reslink.imaging.preprocess import Preprocess

    return list(get_args(Preprocess.model_fields["window"].annotation))


def _schema_version() -> int:
    from reslink.bundles.bundle import SCHEMA_VERSION

    return SCHEMA_VERSION


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_as_text(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
