"""What a bundle keeps of its training images: fingerprints that tell a near copy of one, and nothing that shows a picture.

No patient identifier is kept, hashed or not: short identifiers are found again from any hash by trying them all, and two
hospitals both have a patient 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.errors import BundleError
from reslink.files import sha256

WIDTH = 128
DIGEST = 32

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """What is known of the images that a network learned from.

    Attributes:
        fingerprints: (n, 128) uint8, one a training image (``reslink.datasets.near_duplicates.fingerprints``).
        cleared: (m, 32) uint8, the SHA-256 of the thumbnails of images that resemble a training image by fingerprint,
            but were compared with it at training and found to be none of its near copies.
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
        """Reads the file that ``to_bytes`` made; the bytes that are checked are the bytes that are used.

        Args:
            path: The file.
            expected: Its SHA-256, as ``bundle.json`` says.

        Raises:
            BundleError: If it is missing, is not the one that was saved, or holds something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            content = path.read_bytes()
            found = sha256(content)
            arrays: dict[str, Any] = load(content) if found == expected else {}
        except (OSError, SafetensorError) as error:
            raise _unusable(path, str(error)) from error
        if found != expected:
            raise _unusable(path, f"its SHA-256 is {found[:12]}…, but bundle.json says {expected[:12]}…")
        if arrays.keys() != {"cleared", "fingerprints"}:
            raise _unusable(path, f"it holds {', '.join(sorted(arrays)) or 'nothing'}")
        return cls(arrays["fingerprints"], arrays["cleared"])


def _unusable(path: Path, fault: str) -> BundleError:
    return BundleError(
        f"{path} cannot be used: {fault}",
        "The fingerprints of the training images are the ones that the bundle was saved with",
        "Copy the whole bundle again, or train again",
    )
