"""What a bundle that ships says of itself: source, first words of its card, limits, findings, how it is made again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reslink.bundles.decision.decision import Decision
from reslink.bundles.record import first_fault
from reslink.errors import BundleError

MOST_BYTES: Final = 10_000_000
"""A shipped bundle is smaller than this, all of its files together."""

Text = Annotated[str, Field(min_length=1)]


NO_GATE: Final = "This model has no out-of-distribution gate: it answers for any picture, also for one that shows no head."


class Origin(BaseModel):
    """The public data set that a bundle learned from, as ``reslink data list`` knows it.

    Attributes:
        name: Its name there.
        title: Title, author and year.
        page: Where it is described.
        licence: What is known of its licence.
        faults: What is known to be wrong with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Text
    title: Text
    page: Text
    licence: Text
    faults: list[Text]


class Shipping(BaseModel):
    """The part ``shipped`` of a bundle's provenance.

    Attributes:
        title: What the bundle is called.
        tells_apart: What it tells apart, in words.
        about: The first lines of its card: what must be known of the source before anything else.
        modality: What kind of image it is for.
        origin: The public data set.
        copy_of_data: How the images that it learned from differ from those of the public data set; empty if they do not.
        limits: Further limits, a sentence each.
        lacks: Parts of the decision, as ``missing_parts`` names them, that its data were too few for; ``limits`` says why.
        reproduce: The commands that make it again, ``DATA`` for the folder of images.
        findings: What an audit of the data found, a sentence each; empty where none was made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    title: Text
    tells_apart: Text
    about: Text
    modality: Text
    origin: Origin
    copy_of_data: str = ""
    limits: list[Text] = Field(min_length=1)
    lacks: list[Text] = []
    reproduce: list[Text] = Field(min_length=1)
    findings: list[Text] = []


def shipping_of(provenance: Mapping[str, Any]) -> Shipping | None:
    """Returns what a bundle says of its shipping; None for a bundle that was not built to ship.

    Raises:
        BundleError: If a field is missing, unknown or of a wrong kind.
    """
    if "shipped" not in provenance:
        return None
    try:
        return Shipping.model_validate(provenance["shipped"])
    except ValidationError as error:
        raise BundleError(
            f"provenance.shipped of the bundle cannot be used: {first_fault(error)}",
            "It holds what benchmarks/make_bundles.py wrote",
            "Build the bundle again",
        ) from error


def read_first(provenance: Mapping[str, Any], *, gated: bool) -> list[str]:
    """Returns what must be known before an answer of a bundle is used, a paragraph each; empty if there is nothing.

    Args:
        provenance: Of the bundle.
        gated: Whether its decision has an out-of-distribution gate.

    Raises:
        BundleError: If what the bundle says of its shipping cannot be used.
    """
    shipping = shipping_of(provenance)
    return ([] if shipping is None else [shipping.about]) + ([] if gated else [NO_GATE])


def audit_findings(audit: Mapping[str, Any]) -> list[str]:
    """Returns what ``audit.json`` found about leakage and shortcuts, a sentence each; counts only, no file name.

    Raises:
        BundleError: If this is not the result of an audit.
    """
    try:
        return list(_findings(audit))
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"This is not the result of an audit ({type(error).__name__}: {error})",
            "audit.json holds what reslink audit DATA --out DIR wrote",
            "Run reslink audit again",
        ) from error


def _findings(audit: Mapping[str, Any]) -> Iterator[str]:
    classes = ", ".join(f"{name} {n:,}" for name, n in audit["classes"].items())
    patients = f", {audit['patients']:,} patients" if audit["patients"] else ", patients not given"
    yield f"{audit['images']:,} images ({classes}) in {audit['groups']:,} groups of patients and near copies{patients}."
    copies = sum(map(len, audit["twins"]))
    yield (
        f"Near copies: {copies:,} images have at least one ({len(audit['twins']):,} sets, {len(audit['twin_pairs']):,} pairs),"
        " mirrored and rotated ones included."
    )
    conflicts = audit["label_conflicts"]
    yield f"Near copies under more than one label: {len(conflicts):,} sets with {sum(map(len, conflicts)):,} images."
    for probe in audit["shortcuts"]:
        yield _probe(probe)
    yield f"Burned-in letters were found on {len(audit['burned_in_text']):,} images."
    yield f"A quick model finds another label likelier for {len(audit['suspected_label_errors']):,} images, often wrongly."
    for one in audit["not_done"]:
        yield f"Not done: {one['check']}, as {one['reason']}."
    failed = [gate["gate"] for gate in audit["gates"] if gate["failed"]]
    yield f"Verdict of the audit: {audit['verdict']}" + (f" ({', '.join(failed)})." if failed else ".")


_PROBES = {
    "file_facts": "From the facts of the file and its header alone",
    "outside_head": "From the pixels outside the head alone",
    "histogram": "From the grey levels alone",
    "thumbnail": "From a thumbnail of 16×16 pixels alone",
}


def _probe(probe: Mapping[str, Any]) -> str:
    found = probe["balanced_accuracy"]
    low, high = found["ci_low"], found["ci_high"]
    interval = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f})"
    how = _PROBES.get(probe["probe"], f"Probe {probe['probe']}:")
    failed = " This shortcut fails the audit." if probe["failed"] else ""
    reached = f"a forest reaches a balanced accuracy of {found['estimate']:.3f}{interval}, chance {probe['chance']:.3f}"
    return f"{how} {reached}.{failed}"


def missing_parts(decision: Decision) -> list[str]:
    """Returns which parts a decision lacks that a shipped bundle has: calibration, operating point, sets, gate."""
    parts = {
        "calibration and operating point": decision.fitted_on is not None,
        "prediction sets": decision.conformal is not None,
        "out-of-distribution gate": decision.ood is not None and decision.arrays is not None,
    }
    return [name for name, there in parts.items() if not there]


_PATHS = re.compile(r"(?:^|(?<=[\s\"'`(=\[]))(?:~?(?:/[\w.+-]+){2,}|~/|[A-Za-z]:\\+\w)", re.MULTILINE)
_ADDRESSES = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_PLACES = re.compile(r"/(?:home|Users|root|tmp|var|opt|usr|mnt|work|site-packages)/[\w.+-]+")
"""What is looked for in files that are no text, where chance alone makes something like a short path."""


def traces(folder: Path, private: Iterable[str] = ()) -> list[str]:
    """Returns what in the files of a bundle tells where or by whom it was made: absolute paths, addresses, given words.

    Args:
        folder: The bundle.
        private: Words that no text may hold, such as the names of the host and the user; upper and lower case are one.

    Returns:
        A phrase each, with the name of the file; empty where nothing was found.
    """
    words = [re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.IGNORECASE) for word in private if word]
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8" if path.suffix in (".json", ".md") else "latin-1")
        patterns = (_PATHS, _ADDRESSES, _PLACES, *words) if path.suffix in (".json", ".md") else (_PLACES,)
        found += [f"{path.name}: {hit.group()}" for pattern in patterns for hit in pattern.finditer(text)]
    return found
