"""Sections of the model card: data, limitations and reproduction of a shipped bundle; the decision of any bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from reslink.bundles.decision.calibration import covered_within
from reslink.bundles.decision.decision import Decision
from reslink.bundles.pretrained import DataSource, OutsideEvaluation, PretrainedInfo
from reslink.errors import listed
from reslink.labels import Labels


def data_section(info: PretrainedInfo) -> str:
    """Returns the source of the images, its license and known issues, and the findings of an audit."""
    no_audit = "The data was not audited for this card. Run `reslink audit DATA --out DIR`."
    parts = [
        "## Data",
        *_source(info.source, f"`{info.source.name}` in `reslink data list`"),
        *(paragraph for source in info.other_sources for paragraph in _source(source, f"`{source.name}`")),
        info.data_processing and f"Processing: {info.data_processing}",
        "## Leakage and shortcuts",
        _list(info.audit_findings) if info.audit_findings else no_audit,
    ]
    return "\n\n".join(part for part in parts if part) + "\n\n"


_LEDGER_COLUMNS: Final = (
    "data",
    "images (groups)",
    "refused",
    "AUROC",
    "accuracy",
    "ECE",
    "coverage of all images",
    "silent errors of all images",
    "date",
    "SHA-256",
)


def ledger_section(info: PretrainedInfo | None) -> str:
    """Returns the evaluations on data of other hospitals, and on held-out parts of the bundle's own sources.

    Empty for a bundle that does not ship.
    """
    if info is None:
        return ""
    others, own = ([entry for entry in info.ledger if entry.seen == seen] for seen in (False, True))
    nothing = "It was not evaluated on data of hospitals that it never saw.\n\n"
    note = "The model learned from other images of these sources, so they are no new hospitals."
    return f"## Data of other hospitals\n\n{_ledger_table(others) or nothing}" + (
        f"## Held-out parts of its own sources\n\n{note} {_ledger_table(own)}" if own else ""
    )


def _ledger_table(entries: Sequence[OutsideEvaluation]) -> str:
    if not entries:
        return ""
    note = (
        "Every evaluation, good or bad. AUROC, accuracy and ECE are over the images that are not refused, abstentions included."
        " Coverage is the share of all images that get an answer; a silent error is a wrong answer without an abstention, as a "
        "share of all images. A refused image gets no answer."
    )
    head = f"| {' | '.join(_LEDGER_COLUMNS)} |\n|{'---|' * len(_LEDGER_COLUMNS)}"
    return "\n".join([note, "", head, *map(_ledger_row, entries)]) + "\n\n"


def _ledger_row(entry: OutsideEvaluation) -> str:
    numbers = (entry.auroc, entry.accuracy, entry.ece, entry.coverage, entry.silent_errors)
    shown = " | ".join("–" if number is None else f"{number:.3f}" for number in numbers)
    images = f"{entry.n:,} ({entry.n_groups:,}) | {entry.n_refused:,}"
    return f"| {entry.data} | {images} | {shown} | {entry.date} | `{entry.sha256[:12]}` |"


def _source(source: DataSource, name: str) -> list[str]:
    return [
        f"Source: {source.title} ({name}), <{source.page}>.",
        f"License of the source: {source.license.rstrip('.')}.",
        "Known issues of the source:\n\n" + _list(source.known_issues),
    ]


def limitations(info: PretrainedInfo) -> str:
    """Returns the further limitations as list items."""
    return _list(info.limitations) + "\n"


def reproduction(info: PretrainedInfo) -> str:
    """Returns the commands that build the bundle again."""
    commands = "\n".join(info.reproduce)
    names = [source.name for source in info.sources]
    folders = (
        f"`DATA` is the folder of the images of `{names[0]}`"
        if len(names) == 1
        else f"`DATA` is the folder that holds those of the images of {listed([f'`{name}`' for name in names])}"
    )
    return f"Commands that reproduce this model ({folders}, `RUN` a new folder):\n\n```\n{commands}\n```"


def label_rule(decision: Decision, labels: Labels) -> str:
    """Returns in one line how probabilities become a label."""
    if decision.by_label:
        rules = zip(labels.names, decision.by_label, strict=True)
        shown = ", ".join(f"`{name}` {one.threshold:.3f} ({one.threshold_source})" for name, one in rules)
        return f"all labels that reach their threshold: {shown}"
    if decision.threshold is None:
        return "the most probable class"
    return f"`{labels.positive}` at a probability of {decision.threshold:.3f} or more (threshold: {decision.threshold_source})"


def decision_section(decision: Decision, labels: Labels, metrics: Mapping[str, Any]) -> str:
    """Returns what ``reslink calibrate`` fitted and its effect on the evaluated images; empty where nothing was fitted."""
    if decision.fitted_on is None:
        return ""
    lines = [*_fitted(decision, label_rule(decision, labels)), *_abstention(metrics.get("selective"))]
    return "## Decision\n\n" + _list(lines) + "\n\n"


def _fitted(decision: Decision, rule: str) -> Iterator[str]:
    yield f"Operating point: {rule}."
    yield f"Calibration of the probabilities: {'; '.join(map(_method, decision.by_label)) or _method(decision)}."
    fitted = [one.conformal for one in decision.by_label or (decision,) if one.conformal is not None]
    if not fitted:
        yield "Prediction sets: none."
    else:
        within = covered_within(per_class=fitted[0].per_class, sources=fitted[0].sources)
        scope = f"within {within}" if within else "over all cases"
        labels = f" for {len(fitted)} of {len(decision.by_label)} labels" if decision.by_label else ""
        yield f"Prediction sets (split conformal): {fitted[0].coverage:g} coverage {scope}{labels}."
    if decision.ood is None:
        yield "Out-of-distribution detector: none."
    else:
        yield (
            "Out-of-distribution detector: the model abstains from images unlike the calibration images; the limits"
            f" retain {decision.ood.retained:g} of the calibration images."
        )
    if (data := decision.fitted_on) is not None:
        warning = " Some of them may have been used to train the network." if data.leakage else ""
        yield f"Fitted on {data.n_images} images in {data.n_groups} groups (data `{data.digest[:12]}…`).{warning}"
        if data.caveat:
            yield f"Caveat: {data.caveat}."


def _method(decision: Decision) -> str:
    return "isotonic curves" if decision.isotonic else f"temperature {decision.temperature:.4g}"


def _abstention(selective: Any) -> Iterator[str]:
    """Yields the effect of prediction sets and OOD detector on the evaluated images."""
    if not isinstance(selective, Mapping):
        return
    if isinstance(sets := selective.get("prediction_sets"), Mapping):
        yield f"The prediction sets contain the true class for {_share(sets['coverage'])} of the evaluated images."
    if selective.get("n_out_of_distribution") is not None:
        yield f"The detector flags {selective['n_out_of_distribution']} of {selective['coverage']['n']} evaluated images."
    if selective.get("coverage"):
        accuracy = selective["metrics"].get("accuracy")
        result = f"; accuracy on the answered images {_share(accuracy)}" if accuracy else ""
        yield f"The model answers {_share(selective['coverage'])} of the evaluated images and abstains from the others{result}."


def _share(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    interval = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
    return f"{estimate['estimate']:.3f}{interval}" if estimate["estimate"] is not None else "an undefined share"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
