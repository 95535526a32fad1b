"""Registry of public data sets: license, layout, labels, masks, known issues and overlaps."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from reslink.errors import check_choice

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class RemoteFile(BaseModel):
    """A file to download.

    Attributes:
        name: Local file name.
        url: Address of the file.
        sha256: Checksum stated by the publisher or an inspection; None uses the checksum of the first download.
    """

    model_config = _STRICT

    name: str
    url: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None


class ClassFolder(BaseModel):
    """A folder of images with one label.

    Attributes:
        path: Path relative to the root of the data set; case-insensitive.
        label: The label in the data set.
        split: The split stated by the data set.
        masks: The folder of masks with the same names as the images.
        columns: Additional manifest columns.
    """

    model_config = _STRICT

    path: str
    label: str
    split: Literal["train", "validation", "test"] | None = None
    masks: str | None = None
    columns: dict[str, str] = {}


class Layout(BaseModel):
    """The folder layout of a data set.

    Attributes:
        kind: ``folders`` of images, or a layout that needs conversion.
        folders: The class folders.
        common: Whether other data sets have the same layout, so that it does not identify this one.
    """

    model_config = _STRICT

    kind: Literal["folders", "figshare", "lgg", "ct_ich", "brats"]
    folders: list[ClassFolder] = []
    common: bool = False


class PublicDataset(BaseModel):
    """A public data set.

    Attributes:
        name: Short name.
        title: Title, author and year.
        page: Web page of the data set.
        files: Files to download; empty if access must be requested.
        access: Who may download.
        license: License of the data; None if unknown.
        modality: CT or MR, and the type of image.
        images: Number of images.
        labels: Label of the data set to common class.
        layout: Its folder layout.
        masks: Location of the masks, and how they become slice labels.
        patients: How patients are identified.
        known_issues: Known problems of the data.
        overlaps: Other data sets with some of the same images.
        evidence: Source of these statements.
    """

    model_config = _STRICT

    name: str
    title: str
    page: str
    files: list[RemoteFile]
    access: str
    license: str | None
    modality: str
    images: str
    labels: dict[str, str]
    layout: Layout
    masks: str
    patients: str
    known_issues: list[str]
    overlaps: list[str]
    evidence: str

    @property
    def terms(self) -> str:
        """The license text that a user accepts before a download."""
        return self.license or f"No license is known. Read {self.page} before you use the data"


@cache
def public_datasets() -> dict[str, PublicDataset]:
    """Returns the registered data sets by name."""
    text = resources.files("reslink.datasets.public").joinpath("data_sets.yaml").read_text(encoding="utf-8")
    return {entry["name"]: PublicDataset.model_validate(entry) for entry in yaml.safe_load(text)}


def get_public_dataset(name: str) -> PublicDataset:
    """Returns a registered data set by name.

    Raises:
        UsageError: If the name is unknown; the message has the nearest one.
    """
    registered = public_datasets()
    check_choice("registered data set", name, registered)
    return registered[name]
