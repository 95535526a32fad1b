"""Sections of the model card: source, limits and findings of a bundle that ships; the decision of any bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reslink.bundles.decision.decision import Decision

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.bundles.pretrained import Shipping


def data(story: Shipping) -> str:
    """Returns where the images come from, under which licence, what is wrong with them, and what an audit found."""
    source, nothing = story.origin, "The data was not audited for this card. Run `reslink audit DATA --out DIR`."
    parts = [
        "## Data",
        f"Source: {source.title} (`{source.name}` in `reslink data list`), <{source.page}>.",
        f"Licence of the source: {source.licence.rstrip('.')}.",
        story.copy_of_data,
        "Known to be wrong with the source:\n\n" + _list(source.faults),
        "## Leakage and shortcuts",
        _list(story.findings) if story.findings else nothing,
    ]
    return "\n\n".join(part for part in parts if part) + "\n\n"


def limits(story: Shipping) -> str:
    """Returns the further limits as lines of a list."""
    return _list(story.limits) + "\n"


def again(story: Shipping) -> str:
    """Returns how the bundle is made again."""
    commands = "\n".join(story.reproduce)
    return (
        f"Made again by (`DATA` stands for the folder of the images of `{story.origin.name}`, `RUN` for a new folder):\n\n"
        f"```\n{commands}\n```"
    )


def label_rule(bundle: Bundle) -> str:
    """Returns in one line how probabilities become a label."""
    rule = bundle.decision
    if rule.threshold is None:
        return "the most probable class"
    return f"`{bundle.labels.positive}` from a probability of {rule.threshold:g} on (from: {rule.threshold_source})"


def decision(bundle: Bundle) -> str:
    """Returns what ``reslink calibrate`` fitted and what it does on the judged images; empty where nothing was fitted."""
    if bundle.decision.fitted_on is None:
        return ""
    lines = [*_fitted(bundle.decision, label_rule(bundle)), *_abstaining(bundle.metrics.get("selective"))]
    return "## Decision\n\n" + _list(lines) + "\n\n"


def _fitted(rule: Decision, label: str) -> Iterator[str]:
    yield f"Operating point: {label}."
    how = "isotonic curves" if rule.isotonic else f"temperature {rule.temperature:.4g}"
    yield f"Calibration of the probabilities: {how}."
    if rule.conformal is None:
        yield "Prediction sets: none."
    else:
        over = "within each class" if rule.conformal.per_class else "over all cases"
        yield f"Prediction sets (split conformal): sets at {rule.conformal.coverage:g} coverage {over}."
    if rule.ood is None:
        yield "Gate: none."
    else:
        yield (
            "Gate: the out-of-distribution gate abstains from images unlike the calibration images; its"
            f" limits were set to keep {rule.ood.retained:g} of them."
        )
    if (used := rule.fitted_on) is not None:
        warning = " Some of them the network may have learned from." if used.leakage else ""
        yield f"Fitted on {used.n_images} images in {used.n_groups} groups (data `{used.digest[:12]}…`).{warning}"
        if used.caveat:
            yield f"Caveat: {used.caveat}."


def _abstaining(found: Any) -> Iterator[str]:
    """Yields what sets and gate did on the judged images."""
    if not isinstance(found, Mapping):
        return
    if isinstance(sets := found.get("sets"), Mapping):
        yield f"On the judged images the sets hold the true class in {_share(sets['coverage'])}."
    if found.get("n_refused") is not None:
        yield f"The gate refuses {found['n_refused']} of {found['coverage']['n']} judged images."
    if found.get("coverage"):
        answered = found["metrics"].get("accuracy")
        right = f"; accuracy of the answered ones {_share(answered)}" if answered else ""
        yield f"It answers {_share(found['coverage'])} of the judged images and abstains from the rest{right}."


def _share(figure: Mapping[str, Any]) -> str:
    low, high = figure["ci_low"], figure["ci_high"]
    interval = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
    return f"{figure['estimate']:.3f}{interval}" if figure["estimate"] is not None else "an undefined share"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
