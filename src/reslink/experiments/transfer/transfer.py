"""How a classifier does on data of another site, scanner or modality, and what is different about that data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslink.bundles.bundle import Bundle
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError, UsageError, nearest
from reslink.evaluation.evaluate import evaluate_bundle
from reslink.experiments.sampling import sample, unseen
from reslink.experiments.transfer.acquisition import Acquisition, acquisitions
from reslink.experiments.transfer.tables import report
from reslink.reports.run.page import evaluation_report
from reslink.training.monitoring.progress import Progress, Silent

MEASURED = 300
"""Images of a data set whose acquisition is measured, drawn at random."""


@dataclass(frozen=True)
class Judgement:
    """A data set, judged.

    Attributes:
        name: The data set's name.
        evaluation: ``evaluation.json``; empty where it could not be judged.
        images: What is known of some of its images.
        left_out: Its images that the network learned from.
        failure: Why it could not be judged.
    """

    name: str
    evaluation: dict[str, Any] = field(default_factory=dict)
    images: Sequence[Acquisition] = ()
    left_out: Sequence[Mapping[str, str]] = ()
    failure: str | None = None


def transfer(
    bundle: str | Path,
    others: Sequence[str | Path],
    out: Path,
    *,
    rename: Mapping[str, str | None] | None = None,
    inside: str | Path | None = None,
    images: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judges a bundle on other data; writes ``out/transfer``, with an evaluation of each data set inside.

    The drop is the figure on data like that learned from (``inside``, or else what the bundle says of its own test part)
    less the figure on the other data. A data set that cannot be judged is reported and the others go on.

    Args:
        bundle: The folder of a bundle, or of the run that holds it, or the name of a shipped bundle.
        others: Data sets of another site, scanner or modality.
        out: Folder of studies.
        rename: The class that a label of the other data stands for; None leaves its cases out. A label that a data set
            does not have is passed over there.
        inside: Data like that which the network learned from; its images that were learned from are left out.
        images: Cases to judge at most of each data set, drawn at random; None takes all.
        device: See :func:`reslink.inference.devices.pick_device`.
        seed: Seed of the drawing and the bootstrap.
        progress: Hears how far it is.

    Returns:
        What ``study.json`` holds: its table ``drop`` has a row for each data set and figure: ``inside``, ``outside``,
        ``drop`` and whether it is ``flagged`` (more than ten points).

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If there is no other data, or a label to map is in none of the data sets or stands for no class.
        StorageError: If the results cannot be written.
    """
    loaded, listener, folder = Bundle.load(bundle), progress or Silent(), out / "transfer"
    if not others:
        raise UsageError("No other data was given", "Transfer is measured on other data", "Name at least one data set")
    judge = _Judge(loaded, folder, out / "cache", images, device, seed, listener)
    opened = _opened(others, loaded, rename or {})
    own = None if inside is None else judge("inside", Manifest.open(inside, labels=loaded.labels))
    judged = [judge(name, data) if isinstance(data, Manifest) else Judgement(name, failure=data) for name, data in opened]
    if own is not None and own.failure:
        listener.message(f"The inside data could not be judged: {own.failure}")
    return report(loaded, own, judged, rename or {}).write(folder)


@dataclass(frozen=True)
class _Judge:
    """Judges one data set after the other in the same way."""

    bundle: Bundle
    folder: Path
    cache: Path
    images: int | None
    device: str
    seed: int
    progress: Progress

    def __call__(self, name: str, manifest: Manifest) -> Judgement:
        """Judges a data set, or says why that cannot be done."""
        assert self.bundle.folder is not None  # noqa: S101  (it was loaded)
        left_out: list[dict[str, str]] = []
        try:
            new, left_out = unseen(manifest, self.bundle)
            chosen = sample(new, self.images, self.seed)
            renamed = any("given_label" in case.extra for case in chosen.cases)
            self.progress.message(f"Judging {len(chosen)} images of {name}")
            evaluation = evaluate_bundle(
                self.bundle.folder,
                chosen,
                self.folder / name,
                device=self.device,
                by=("given_label",) if renamed else (),
                explain_masks=False,
                cache_folder=self.cache,
                seed=self.seed,
            )
            evaluation_report(self.folder / name)
            images = acquisitions(sample(chosen, MEASURED, self.seed), self.bundle.preprocess, self.progress)
        except ReslinkError as error:
            return Judgement(name, left_out=left_out, failure=str(error))
        return Judgement(name, evaluation, images, left_out)


def _opened(others: Sequence[str | Path], bundle: Bundle, rename: Mapping[str, str | None]) -> list[tuple[str, Manifest | str]]:
    """Opens the data sets under names that differ; one that cannot be used is there as the reason."""
    for label, name in rename.items():
        if name is not None and name not in bundle.labels.names:
            raise UsageError(
                f"The label {label!r} is to stand for {name!r}, which the bundle does not know",
                f"Its classes are {', '.join(bundle.labels.names)}",
                nearest(name, bundle.labels.names),
            )
    unused, names = set(rename), _names(others)
    found: list[tuple[str, Manifest | str]] = []
    for name, data in zip(names, others, strict=True):
        try:
            manifest = Manifest.open(data, labels=bundle.labels, rename=rename)
        except ReslinkError as error:
            found.append((name, _with_map(error)))
            continue
        unused -= {case.extra.get("given_label") for case in manifest.cases}
        found.append((name, manifest))
    _check_used(unused, rename, [manifest for _, manifest in found if isinstance(manifest, Manifest)])
    return found


def _check_used(unused: set[str], rename: Mapping[str, str | None], opened: Sequence[Manifest]) -> None:
    """Refuses a label to map that no data set has; one whose cases are left out leaves no trace and is not checked."""
    known = sorted({case.extra["given_label"] for manifest in opened for case in manifest.cases})
    for label in sorted(unused):
        if known and rename[label] is not None:
            raise UsageError(
                f"No data set has the label {label!r}", f"The labels found are {', '.join(known)}", nearest(label, known)
            )


def _names(others: Sequence[str | Path]) -> list[str]:
    """Names the data sets after their folders, with a number where two are called alike."""
    names: list[str] = []
    for data in others:
        path = Path(data).absolute()
        name = path.parent.name if path.name == "manifest.csv" else path.stem or "data"
        same = sum(other == name or other.startswith(f"{name}-") for other in [*names, "inside"])
        names.append(name if not same else f"{name}-{same + 1}")
    return names


def _with_map(error: ReslinkError) -> str:
    hint = " Say what it stands for: --map LABEL=CLASS." if "which the model does not know" in error.given else ""
    return str(error) + hint
