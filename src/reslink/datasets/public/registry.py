"""The public data sets that reslink knows: licence, layout, labels, masks, what is wrong with them, what they overlap."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from reslink.errors import UsageError, nearest

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class RemoteFile(BaseModel):
    """A file to download.

    Attributes:
        name: Its name here.
        url: Where it lies.
        sha256: Its checksum where the publisher or an inspection states one; None: that of the first download holds.
    """

    model_config = _STRICT

    name: str
    url: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None


class ClassFolder(BaseModel):
    """A folder whose images have one label.

    Attributes:
        path: Below the root of the data set; upper and lower case do not matter.
        label: The label as the data set has it.
        split: The side that the data set puts it on.
        masks: The folder of masks that are called like the images.
        columns: Further columns of the manifest.
    """

    model_config = _STRICT

    path: str
    label: str
    split: Literal["train", "validation", "test"] | None = None
    masks: str | None = None
    columns: dict[str, str] = {}


class Layout(BaseModel):
    """How the files of a data set lie.

    Attributes:
        kind: ``folders`` of images, or one that needs its images cut out or converted.
        folders: The class folders.
        common: Whether other sets lie in the same way, so that the set must be named.
    """

    model_config = _STRICT

    kind: Literal["folders", "figshare", "lgg", "ct_ich", "brats"]
    folders: list[ClassFolder] = []
    common: bool = False


class Source(BaseModel):
    """A public data set.

    Attributes:
        name: Short name.
        title: Its title, author and year.
        page: Where it is described.
        files: What to download; empty where access must be asked for.
        access: Who may download.
        licence: What is known of its licence; None where nothing is.
        modality: CT or MR, and what kind of image.
        images: How many.
        labels: Its labels, and which of the two common classes each is.
        layout: How its files lie.
        masks: Where masks are and how they become labels of slices.
        patients: How patients are known.
        faults: What is known to be wrong with it.
        overlaps: Other sets that hold some of its images.
        evidence: Where these statements come from.
    """

    model_config = _STRICT

    name: str
    title: str
    page: str
    files: list[RemoteFile]
    access: str
    licence: str | None
    modality: str
    images: str
    labels: dict[str, str]
    layout: Layout
    masks: str
    patients: str
    faults: list[str]
    overlaps: list[str]
    evidence: str

    @property
    def terms(self) -> str:
        """What a user agrees to before a download."""
        return self.licence or f"No licence is known. Read {self.page} before you use the data"


@cache
def sources() -> dict[str, Source]:
    """Returns the known data sets by name."""
    text = resources.files("reslink.datasets").joinpath("sources.yaml").read_text(encoding="utf-8")
    return {entry["name"]: Source.model_validate(entry) for entry in yaml.safe_load(text)}


def source(name: str) -> Source:
    """Returns a data set.

    Raises:
        UsageError: If there is none of this name, with the nearest.
    """
    known = sources()
    if name not in known:
        raise UsageError(f"There is no data set {name!r}", f"The known ones are {', '.join(known)}", nearest(name, known))
    return known[name]
