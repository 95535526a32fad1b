"""The lineage of a fine-tuned network: its ancestors, and the fingerprints of the images that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from reslink.bundles.fingerprints import TrainingImages
from reslink.files import sha256

Digest: Final = "^[0-9a-f]{64}$"


class Ancestor(BaseModel):
    """A network that the weights of a bundle come from.

    Attributes:
        name: Name of the shipped model; None for another bundle, because names of folders can be private.
        weights_sha256: SHA-256 of its weights.
        license: License of its weights.
        labels: Its classes.
        data_digest: SHA-256 of its data set; None if unknown.
        fingerprints_sha256: SHA-256 of the fingerprints of its training images, as in its own bundle; None without them.
        training_images: These fingerprints; not part of the JSON form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    name: str | None = None
    weights_sha256: str = Field(pattern=Digest)
    license: str
    labels: list[str]
    data_digest: str | None = None
    fingerprints_sha256: str | None = Field(default=None, pattern=Digest)
    training_images: TrainingImages | None = Field(default=None, exclude=True, repr=False)

    def __str__(self) -> str:
        return f"{self.name or 'a bundle'} (weights {self.weights_sha256[:12]}…)"

    @classmethod
    def make(cls, training_images: TrainingImages | None, **fields: Any) -> Ancestor:
        """Returns an ancestor with the SHA-256 of its fingerprints."""
        digest = None if training_images is None else sha256(training_images.to_bytes())
        return cls(fingerprints_sha256=digest, training_images=training_images, **fields)


def fingerprints_file(generation: int) -> str:
    """Returns the name of the file with the fingerprints of an ancestor; generation 1 is the parent."""
    return f"ancestor_{generation}.safetensors"


def fingerprint_files(lineage: Sequence[Ancestor]) -> dict[str, bytes]:
    """Returns the contents of the files with fingerprints by name; ancestors without fingerprints have none."""
    return {
        fingerprints_file(generation): ancestor.training_images.to_bytes()
        for generation, ancestor in enumerate(lineage, start=1)
        if ancestor.training_images is not None
    }


def read_lineage(folder: Path, lineage: Sequence[Ancestor]) -> tuple[Ancestor, ...]:
    """Returns the ancestors of a bundle with the fingerprints in its folder.

    Raises:
        BundleError: If a file is missing or differs from the saved one.
    """
    return tuple(
        ancestor
        if ancestor.fingerprints_sha256 is None
        else ancestor.model_copy(
            update={"training_images": TrainingImages.read(folder / fingerprints_file(number), ancestor.fingerprints_sha256)}
        )
        for number, ancestor in enumerate(lineage, start=1)
    )
