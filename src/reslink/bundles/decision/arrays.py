"""The arrays of a decision, kept in ``decision.safetensors`` beside ``bundle.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.errors import BundleError
from reslink.files import sha256


@dataclass(frozen=True, eq=False)
class DecisionArrays:
    """Arrays by name; two of them are equal if their files are.

    Attributes:
        by_name: What :class:`reslink.bundles.decision.ood.OodGate` compares with, and ``images``, (n, 128) uint8: fingerprints
            of the images that the decision was fitted on (``reslink.datasets.near_duplicates.fingerprints``).
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
        """Reads the file that ``to_bytes`` made; the bytes that are checked are the bytes that are used.

        Args:
            path: The file.
            expected: Its SHA-256, as ``bundle.json`` says.

        Raises:
            BundleError: If it is missing, is not the one that was saved, or holds a number that is not finite.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            content = path.read_bytes()
            found = sha256(content)
            arrays = load(content) if found == expected else {}
        except (OSError, SafetensorError) as error:
            raise _unusable(path, str(error)) from error
        if found != expected:
            raise _unusable(path, f"its SHA-256 is {found[:12]}…, but bundle.json says {expected[:12]}…")
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise _unusable(path, f"{name} is not finite")
        return cls(arrays)


def _unusable(path: Path, fault: str) -> BundleError:
    return BundleError(
        f"{path} cannot be used: {fault}",
        "The arrays of the decision are the ones that the bundle was saved with",
        "Copy the whole bundle again, or run reslink calibrate again",
    )
