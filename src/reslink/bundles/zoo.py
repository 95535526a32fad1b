"""The bundles that ship with the package: found by name, listed with what they were measured to do, never written to."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from reslink.bundles import weights
from reslink.bundles.pretrained import shipping_of
from reslink.bundles.record import BUNDLE_JSON, CARD, WEIGHTS, Record, read_record
from reslink.errors import BundleError, UsageError, nearest

SHIPPED = Path(str(resources.files("reslink.bundles") / "shipped"))
"""Where they lie in an installation: a folder each, whose name is the name of the bundle."""

HEADLINE: Final = ("accuracy", "sensitivity", "specificity", "auroc")


@dataclass(frozen=True)
class ShippedModel:
    """A bundle that ships with the package.

    Attributes:
        name: What a command takes in place of a path.
        folder: Where it lies.
        title: What it is called.
        tells_apart: What it tells apart, in words.
        about: What must be known of its source before it is used.
        classes: The class names in the order of the outputs.
        modality: What kind of image it is for.
        input: Channels, height and width of what the network sees.
        bytes: Size of the folder on disk.
        parameters: Trained numbers of the network.
        figures: Of ``HEADLINE``, those that the bundle's own metrics hold: ``estimate``, ``ci_low``, ``ci_high`` (95 %
            interval), ``n`` and ``method``.
        has_gate: Whether it abstains from images unlike its calibration images; without a gate it answers to any picture.
        n_groups: Patients or groups of near copies among the judged images; None where nothing was measured.
        licence: The licence of the weights.
    """

    name: str
    folder: Path
    title: str
    tells_apart: str
    about: str
    classes: tuple[str, ...]
    modality: str
    input: tuple[int, int, int]
    bytes: int
    parameters: int
    figures: dict[str, dict[str, Any]]
    has_gate: bool
    n_groups: int | None
    licence: str

    @classmethod
    def read(cls, folder: Path) -> ShippedModel:
        """Reads what ``bundle.json`` and the head of the weight file say; loads no weight and no torch.

        Raises:
            BundleError: If it is not a bundle of this version, or was not built to ship.
        """
        record = read_record(folder / BUNDLE_JSON)
        story = shipping_of(record.provenance)
        if story is None:
            raise BundleError(
                f"{folder} was not built to ship: its provenance has no part 'shipped'",
                "A shipped bundle says what it tells apart, where its data comes from and what its limits are",
                f"Build it: python benchmarks/make_bundles.py {folder.name} RUN",
            )
        side = record.preprocess.size
        return cls(
            name=folder.name,
            folder=folder,
            title=story.title,
            tells_apart=story.tells_apart,
            about=story.about,
            classes=tuple(record.labels),
            modality=story.modality,
            input=(record.preprocess.channels, side, side),
            bytes=size_of(folder),
            parameters=weights.count_parameters(folder / WEIGHTS),
            figures=_figures(record),
            has_gate=record.decision.ood is not None,
            n_groups=record.metrics.get("n_groups"),
            licence=str(record.provenance.get("licence", "not stated")),
        )

    def card(self) -> str:
        """Returns the text of its model card."""
        return (self.folder / CARD).read_text(encoding="utf-8")

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return vars(self) | {"folder": str(self.folder), "classes": list(self.classes), "input": list(self.input)}


def shipped(folder: Path | None = None) -> list[ShippedModel]:
    """Returns the bundles that ship with the package, by name; an empty list where there is none.

    Args:
        folder: Another folder of bundles.

    Raises:
        BundleError: If one of them cannot be used.
    """
    place = SHIPPED if folder is None else folder
    return [ShippedModel.read(place / name) for name in names(place)]


def names(folder: Path | None = None) -> list[str]:
    """Returns the names of the shipped bundles, sorted; opens none of them."""
    place = SHIPPED if folder is None else folder
    return sorted(found.parent.name for found in place.glob(f"[!.]*/{BUNDLE_JSON}"))


def model(name: str, folder: Path | None = None) -> ShippedModel:
    """Returns a shipped bundle.

    Raises:
        UsageError: If there is none of this name, with the nearest.
    """
    known = names(folder)
    if name not in known:
        raise UsageError(
            f"No bundle called {name!r} ships with reslink",
            f"The names of those that ship: {_listed(known)}",
            _did_you_mean(name, known),
        )
    return ShippedModel.read((SHIPPED if folder is None else folder) / name)


def resolve(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """Returns the path that a user means: that of a shipped bundle, given its name, or the one given.

    A text without a ``/`` is looked up among the names first, so ``ct`` is the shipped bundle and ``./ct`` or ``ct/`` a
    folder called so. Where no bundle has that name it is a path like any other. A ``Path`` is always a path.

    Args:
        name_or_path: A name such as ``ct``, or a path.
        folder: Another folder of bundles to look in.

    Raises:
        BundleError: If it is written as a name, and neither a bundle nor a file or folder is called so; or if it is no text.
    """
    if not isinstance(name_or_path, str | Path):
        raise BundleError(
            f"{type(name_or_path).__name__} was given as a bundle",
            f"A bundle is the path of a folder, or the name of one that ships: {_listed(names(folder))}",
            "Give a text or a pathlib.Path",
        )
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or os.sep in name_or_path:
        return path
    known = names(folder)
    if name_or_path in known:
        if path.exists():
            warnings.warn(
                f"{name_or_path} is the bundle that ships with reslink; write ./{name_or_path} for the folder here",
                stacklevel=2,
            )
        return (SHIPPED if folder is None else folder) / name_or_path
    if path.exists():
        return path
    raise BundleError(
        f"There is no folder {path}, and no bundle of that name ships with reslink",
        f"A bundle is a folder with bundle.json and model.safetensors, or the name of one that ships: {_listed(known)}",
        _did_you_mean(name_or_path, known),
    )


def refuse_shipped(target: Path) -> None:
    """Refuses to write into a shipped bundle.

    Raises:
        UsageError: If the path lies in the folder of the shipped bundles.
    """
    place = SHIPPED.resolve()
    found = target.resolve()
    if found == place or place in found.parents:
        raise UsageError(
            f"{target} belongs to the bundles that ship with reslink",
            "A shipped bundle is never written to: it would no longer be the one that its card describes",
            "Give a folder of your own with --out",
        )


def size_of(folder: Path) -> int:
    """Returns the bytes of all files of a bundle."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _figures(record: Record) -> dict[str, dict[str, Any]]:
    """Returns the headline figures that were measured."""
    measured = record.metrics.get("metrics", {})
    return {name: measured[name] for name in HEADLINE if _known(measured.get(name))}


def _known(figure: Any) -> bool:
    return isinstance(figure, Mapping) and figure.get("estimate") is not None


def _listed(known: list[str]) -> str:
    return ", ".join(known) or "none in this installation"


def _did_you_mean(name: str, known: list[str]) -> str:
    return nearest(name.lower(), known) if known else "Check the path, or run reslink train DATA --out RUN"
