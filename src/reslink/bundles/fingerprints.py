"""Fingerprints of the training images, by which a bundle recognizes near duplicates without storing any picture.

No patient identifier is stored, not even hashed: short identifiers can be recovered from any hash by trying them all, and
two hospitals both have a patient 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.verified_files import read_arrays
from reslink.errors import BundleError, unusable_bundle

WIDTH = 128
DIGEST = 32

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Fingerprints of the images that a network was trained on.

    Attributes:
        fingerprints: (n, 128) uint8, one for each training image (``reslink.datasets.near_duplicates.fingerprints``).
        cleared: (m, 32) uint8, SHA-256 of thumbnails whose fingerprint resembles that of a training image, although the
            comparison at training time showed that they are not near duplicates.
    """

    fingerprints: Bytes
    cleared: Bytes

    def __post_init__(self) -> None:
        for name, width in (("fingerprints", WIDTH), ("cleared", DIGEST)):
            array = getattr(self, name)
            if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != width:
                raise BundleError(
                    f"{name} of the training images are {array.dtype} of the shape {array.shape}",
                    f"They are uint8 of the shape (n, {width})",
                    "Use the bundle as reslink wrote it, or train again",
                )

    def __len__(self) -> int:
        return len(self.fingerprints)

    def to_bytes(self) -> bytes:
        """Returns a safetensors file; equal arrays give equal bytes."""
        from safetensors.numpy import save

        arrays = {"cleared": self.cleared, "fingerprints": self.fingerprints}
        return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})

    @classmethod
    def read(cls, path: Path, expected: str) -> TrainingImages:
        """Reads a file that ``to_bytes`` made.

        Args:
            path: The file.
            expected: Its SHA-256, as ``bundle.json`` states it.

        Raises:
            BundleError: If the file is missing, differs from the saved one, or holds other arrays.
        """
        arrays = read_arrays(path, expected)
        if arrays.keys() != {"cleared", "fingerprints"}:
            raise unusable_bundle(path, f"it holds {', '.join(sorted(arrays)) or 'nothing'}")
        return cls(arrays["fingerprints"], arrays["cleared"])
