"""reslink: train, judge, explain and run brain CT and MR tumour classifiers. Research use only.

From Python:

    import reslink

    [answer] = reslink.Classifier.load("ct").predict("scan.png")

The names below are imported when they are first asked for; ``import reslink`` alone imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "Bundle": "bundles.bundle",
    "Classifier": "inference.classifier",
    "Image": "imaging.image",
    "Prediction": "inference.classifier",
    "Preprocess": "imaging.preprocess",
    "ResLinkClassifier": "training.sklearn_estimator",
    "ResLinkDecisiond": "inference.monai_transforms",
    "ResLinkPreprocessd": "inference.monai_transforms",
    "load_network": "inference.monai_transforms",
    "read_image": "imaging.reading",
}
"""Where each public name lives; ``__init__.pyi`` says the same to type checkers."""

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'reslink' has no attribute {name!r}; it has {', '.join(sorted(_PLACES))}")
    value = getattr(importlib.import_module(f"reslink.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
