"""The arrays of a decision, stored in ``decision.safetensors`` beside ``bundle.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.verified_files import read_arrays
from reslink.errors import unusable_bundle


@dataclass(frozen=True, eq=False)
class DecisionArrays:
    """Arrays by name; two objects are equal if their files are.

    Attributes:
        by_name: The distributions of :class:`reslink.bundles.decision.ood.OODDetector`, and ``images``, (n, 128) uint8:
            fingerprints of the calibration images (``reslink.datasets.near_duplicates.fingerprints``).
    """

    by_name: Mapping[str, NDArray[Any]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DecisionArrays) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Returns a safetensors file; equal arrays give equal bytes."""
        from safetensors.numpy import save

        return save({name: np.ascontiguousarray(self.by_name[name]) for name in sorted(self.by_name)})

    @classmethod
    def read(cls, path: Path, expected: str) -> DecisionArrays:
        """Reads the arrays of a decision from a file.

        Args:
            path: The file.
            expected: Its SHA-256, as ``bundle.json`` states it.

        Raises:
            BundleError: If the file is missing, differs from the saved one, or holds a number that is not finite.
        """
        arrays = read_arrays(path, expected)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise unusable_bundle(path, f"{name} is not finite")
        return cls(arrays)
