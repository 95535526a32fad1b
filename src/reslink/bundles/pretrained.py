"""The description of a shipped bundle: data source, usage notes, limitations, audit findings, and how to reproduce it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reslink.bundles.decision.decision import Decision
from reslink.bundles.record import first_error
from reslink.errors import BundleError, unusable_bundle

MAX_BUNDLE_BYTES: Final = 10_000_000
"""A shipped bundle is smaller than this, all of its files together."""

Text = Annotated[str, Field(min_length=1)]

NO_OOD_DETECTOR: Final = (
    "This model has no out-of-distribution detector: it gives an answer for any image, even for one that shows no head."
)


class DataSource(BaseModel):
    """A public data set that a bundle was trained on.

    Attributes:
        name: Its name, as in ``reslink data list`` if it is listed there.
        title: Title, author and year.
        page: Web page that describes it.
        license: Its license, as far as known.
        known_issues: Known problems of the data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Text
    title: Text
    page: Text
    license: Text
    known_issues: list[Text]


class OutsideEvaluation(BaseModel):
    """An evaluation of a bundle on data that it was not trained on, good or bad: a row of its ledger.

    Attributes:
        data: Name of the data set, and which part of it.
        date: The day of the evaluation, YYYY-MM-DD.
        sha256: SHA-256 of the data set (``Manifest.digest``).
        n: Number of images, without those that overlap with the training images, and with those that the bundle refuses.
        n_refused: Number of these images that the bundle refuses.
        n_groups: Number of groups (patients, with near duplicates joined) of the images that are not refused.
        seen: Whether it is a held-out part of a source that the bundle was trained on; otherwise hospitals that it never saw.
        auroc: The area under the ROC curve of the images that are not refused; None where it is not defined.
        accuracy: Accuracy of the images that are not refused, without abstention.
        ece: Expected calibration error of the images that are not refused.
        coverage: Share of all images that are answered.
        silent_errors: Share of all images with a wrong answer and no abstention.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    data: Text
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    n: int = Field(ge=1)
    n_refused: int = Field(ge=0)
    n_groups: int = Field(ge=1)
    seen: bool = False
    auroc: float | None
    accuracy: float
    ece: float | None
    coverage: float
    silent_errors: float

    @classmethod
    def of(cls, evaluation: Mapping[str, Any], **stated: Any) -> OutsideEvaluation:
        """Returns the row of an evaluation. Images that the bundle refuses count as not answered.

        Args:
            evaluation: The content of ``evaluation.json``.
            **stated: ``data``, ``date``, ``sha256`` and ``seen``.
        """
        metrics = {name: (evaluation["metrics"].get(name) or {}).get("estimate") for name in ("auroc", "accuracy", "ece")}
        n, selective = evaluation["n"] + evaluation["n_refused"], evaluation["selective"]
        if selective is None:
            answered, wrong = 1.0, 1 - evaluation["metrics"]["accuracy"]["estimate"]
        else:
            answered, wrong = (selective[name]["estimate"] for name in ("coverage", "silent_errors"))
        share = evaluation["n"] / n  # of the images that are not refused
        numbers = metrics | {"coverage": answered * share, "silent_errors": wrong * share}
        rounded = {name: value if value is None else round(value, 4) for name, value in numbers.items()}
        counts = {"n": n, "n_refused": evaluation["n_refused"], "n_groups": evaluation["n_groups"]}
        return cls.model_validate(counts | rounded | stated)


class PretrainedInfo(BaseModel):
    """The entry ``pretrained`` in the provenance of a bundle that ships with reslink.

    Attributes:
        title: Title of the bundle.
        task: The classes that it tells apart, in words.
        usage_notes: The first lines of its card: what to read before using it.
        modality: The kind of images that it is for.
        source: The public data set; of several, the first.
        other_sources: The other data sets that it was trained on.
        data_processing: How the training images differ from those of the public data set; empty if they do not.
        limitations: Further limitations, a sentence each.
        missing_components: Parts of the decision, by the names of :func:`missing_components`, for which there was too little
            data; ``limitations`` gives the reason.
        reproduce: The commands that build it again, with ``DATA`` for the folder of images.
        audit_findings: Results of an audit of the data, a sentence each; empty without an audit.
        ledger: Every evaluation on data of other hospitals, and on held-out parts of its own sources, good or bad.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    title: Text
    task: Text
    usage_notes: Text
    modality: Text
    source: DataSource
    other_sources: list[DataSource] = []
    data_processing: str = ""
    limitations: list[Text] = Field(min_length=1)
    missing_components: list[Text] = []
    reproduce: list[Text] = Field(min_length=1)
    audit_findings: list[Text] = []
    ledger: list[OutsideEvaluation] = []

    @property
    def sources(self) -> list[DataSource]:
        """All data sets that it was trained on."""
        return [self.source, *self.other_sources]


def pretrained_info(provenance: Mapping[str, Any]) -> PretrainedInfo | None:
    """Returns the description of a shipped bundle; None for any other bundle.

    Raises:
        BundleError: If a field is missing, unknown or invalid.
    """
    if "pretrained" not in provenance:
        return None
    try:
        return PretrainedInfo.model_validate(provenance["pretrained"])
    except ValidationError as error:
        what = "provenance.pretrained of the bundle"
        raise unusable_bundle(what, first_error(error), "Build it again with benchmarks/make_bundles.py") from error


def usage_notes(provenance: Mapping[str, Any], *, has_ood_detector: bool) -> list[str]:
    """Returns the notes to read before using a bundle, a paragraph each; empty if there are none.

    Args:
        provenance: Provenance of the bundle.
        has_ood_detector: Whether its decision has an out-of-distribution detector.

    Raises:
        BundleError: If the description of a shipped bundle is invalid.
    """
    info = pretrained_info(provenance)
    return ([] if info is None else [info.usage_notes]) + ([] if has_ood_detector else [NO_OOD_DETECTOR])


def other_hospitals(ledger: Iterable[OutsideEvaluation]) -> list[OutsideEvaluation]:
    """Returns the evaluations on data of hospitals that a bundle never saw, the lowest accuracy first."""
    return sorted((entry for entry in ledger if not entry.seen), key=lambda entry: entry.accuracy)


def other_hospitals_sentence(ledger: Iterable[OutsideEvaluation]) -> str:
    """Returns how a bundle did on data of hospitals that it never saw, for those who read an answer."""
    evaluations = other_hospitals(ledger)
    if not evaluations:
        return "No evaluation on images of other hospitals is recorded."
    worst = evaluations[0]
    which = f", the worst of {len(evaluations)} evaluations" if len(evaluations) > 1 else ""
    refused = f", without {worst.n_refused} refused" if worst.n_refused else ""
    wrong = f", of which {100 * worst.silent_errors / worst.coverage:.0f} % were wrong" if worst.coverage else ""
    return (
        f"On images of other hospitals{which}, its accuracy as shipped was {worst.accuracy:.2f} (n {worst.n - worst.n_refused}"
        f"{refused}); of all {worst.n}, {100 * worst.coverage:.0f} % got an answer{wrong}."
    )


def summarize_audit(audit: Mapping[str, Any]) -> list[str]:
    """Returns the findings of ``audit.json`` on leakage and shortcuts, a sentence each; counts only, no file names.

    Raises:
        BundleError: If this is not the result of an audit.
    """
    try:
        return list(_audit_sentences(audit))
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"This is not the result of an audit ({type(error).__name__}: {error})",
            "audit.json holds what reslink audit DATA --out DIR wrote",
            "Run reslink audit again",
        ) from error


def _audit_sentences(audit: Mapping[str, Any]) -> Iterator[str]:
    classes = ", ".join(f"{name} {n:,}" for name, n in audit["classes"].items())
    patients = f", {audit['patients']:,} patients" if audit["patients"] else ", patients not given"
    yield f"{audit['images']:,} images ({classes}) in {audit['groups']:,} groups of patients and near duplicates{patients}."
    duplicates = sum(map(len, audit["near_duplicates"]))
    yield (
        f"Near duplicates: {duplicates:,} images have at least one ({len(audit['near_duplicates']):,} groups,"
        f" {len(audit['near_duplicate_pairs']):,} pairs), including mirrored and rotated ones."
    )
    conflicts = audit["label_conflicts"]
    yield f"Near duplicates with different labels: {len(conflicts):,} groups with {sum(map(len, conflicts)):,} images."
    for probe in audit["shortcuts"]:
        yield _probe_sentence(probe)
    yield f"Burned-in text was found on {len(audit['burned_in_text']):,} images."
    suspected = len(audit["suspected_label_errors"])
    yield f"For {suspected:,} images a simple model finds another label more likely; it is often wrong."
    for check in audit["skipped_checks"]:
        yield f"Skipped: {check['check']}, because {check['reason']}."
    failed = [check["check"] for check in audit["checks"] if check["failed"]]
    yield f"Result of the audit: {audit['verdict']}" + (f" ({', '.join(failed)})." if failed else ".")


_PROBES: Final = {
    "file_metadata": "From file and header metadata alone",
    "outside_head": "From the pixels outside the head alone",
    "histogram": "From the gray levels alone",
    "thumbnail": "From a thumbnail of 16×16 pixels alone",
}


def _probe_sentence(probe: Mapping[str, Any]) -> str:
    accuracy = probe["balanced_accuracy"]
    estimate, low, high = (accuracy[key] for key in ("estimate", "ci_low", "ci_high"))
    interval = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f})"
    input_text = _PROBES.get(probe["probe"], f"Probe {probe['probe']}:")
    failed = " This shortcut fails the audit." if probe["failed"] else ""
    result = f"a model reaches a balanced accuracy of {estimate:.3f}{interval}, chance {probe['chance']:.3f}"
    return f"{input_text} {result}.{failed}"


def missing_components(decision: Decision) -> list[str]:
    """Returns the parts that a shipped bundle has and this decision lacks."""
    present = {
        "calibration and operating point": decision.fitted_on is not None,
        "prediction sets": decision.conformal is not None,
        "out-of-distribution detector": decision.ood is not None and decision.arrays is not None,
    }
    return [name for name, there in present.items() if not there]


_PATHS: Final = re.compile(r"(?:^|(?<=[\s\"'`(=\[]))(?:~?(?:/[\w.+-]+){2,}|~/|[A-Za-z]:\\+\w)", re.MULTILINE)
_ADDRESSES: Final = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_COMMON_FOLDERS: Final = re.compile(r"/(?:home|Users|root|tmp|var|opt|usr|mnt|work|site-packages)/[\w.+-]+")
"""The only pattern for binary files, in which any short path can occur by chance."""


def find_private_strings(folder: Path, private: Iterable[str] = ()) -> list[str]:
    """Returns strings in the files of a bundle that reveal the machine or the user that built it.

    Args:
        folder: The bundle.
        private: Words that no file may hold, such as the names of the host and the user, in upper or lower case.

    Returns:
        Absolute paths, e-mail addresses and private words, each with the name of its file.
    """
    words = [re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.IGNORECASE) for word in private if word]
    matches = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        is_text = path.suffix in (".json", ".md")
        text = path.read_text(encoding="utf-8" if is_text else "latin-1")
        patterns = (_PATHS, _ADDRESSES, _COMMON_FOLDERS, *words) if is_text else (_COMMON_FOLDERS,)
        matches += [f"{path.name}: {match.group()}" for pattern in patterns for match in pattern.finditer(text)]
    return matches
