"""reslink: train, evaluate, explain and run brain CT and MR tumor classifiers. Research use only.

Example:
    >>> import reslink
    >>> [prediction] = reslink.predict("ct", "scan.png")  # doctest: +SKIP
    >>> prediction.label  # doctest: +SKIP
    'Tumor'

The public names are imported on first use: ``import reslink`` alone imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "Bundle": "bundles.bundle",
    "Classifier": "inference.classifier",
    "Image": "imaging.image",
    "Manifest": "datasets.manifest",
    "Prediction": "inference.prediction",
    "Preprocess": "imaging.preprocess",
    "ResLinkClassifier": "training.sklearn_estimator",
    "ResLinkDecisiond": "inference.monai_transforms",
    "ResLinkPreprocessd": "inference.monai_transforms",
    "adapt": "api.adapt",
    "cache": "api.cache",
    "cv": "api.cv",
    "evaluate": "api.evaluate",
    "load_network": "inference.monai_transforms",
    "predict": "api.predict",
    "read_image": "imaging.reading",
    "runs": "api.runs",
    "split": "api.split",
    "train": "api.train",
    "tune": "api.tune",
}
"""The module of each public name; ``__init__.pyi`` declares the same names for type checkers."""

_CALLABLE_PACKAGES = ("audit", "explain")
"""Public functions that are packages too; see ``callable_package.py``."""

__all__ = ["__version__", *_CALLABLE_PACKAGES, *_MODULES]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name in _CALLABLE_PACKAGES:
        return importlib.import_module(f"reslink.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'reslink' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
    value = getattr(importlib.import_module(f"reslink.{_MODULES[name]}"), name)
    if _MODULES[name].startswith("api."):
        value = importlib.import_module("reslink.parameter_names").with_parameter_names(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
