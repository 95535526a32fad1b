"""How a way to fit decisions does on groups that were left out of the fit."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision, Verdicts
from reslink.errors import UsageError
from reslink.evaluation.fitting import IN_EVERY_SET, NO_GATE, NO_SETS, NO_TEMPERATURE, Evidence, Wishes, fit, folds
from reslink.evaluation.selective import set_figures
from reslink.labels import Labels
from reslink.metrics.classification import estimates
from reslink.metrics.intervals import Estimate, mean_interval

Rows: TypeAlias = NDArray[np.int64]


def held_out(evidence: Evidence, wishes: Wishes, before: Decision, whole: Decision, labels: Labels) -> dict[str, Any]:
    """Returns how decisions fitted to four fifths of the groups do on the rest, over five such divisions.

    Intervals are over groups, with the five decisions as they are. A fifth of the groups less may be too few for a part
    that the whole has; figures that rest on it are then null, as they would be those of another decision.

    Args:
        evidence: All cases.
        wishes: What the decision is to hold.
        before: The decision that the bundle had.
        whole: The decision that was fitted to all cases.
        labels: The K classes.

    Returns:
        ``brier`` and ``ece`` (``before``, ``after``), ``sets`` (see :func:`reslink.evaluation.selective.set_figures`; null
        where none were fitted), ``retained`` (share that the gate keeps, null where none was fitted), ``answered`` (share
        that is not abstained from), ``accuracy``, ``sensitivity`` and ``specificity`` (null unless with two classes), each
        an estimate with its 95 % interval; ``n``; ``notes`` (why a figure is null or of another decision, a sentence each);
        and ``reason``, which says why there is nothing else where a fifth of the groups less leaves too little to fit on.
    """
    rows: list[Rows] = []
    decisions: list[Decision] = []
    verdicts: list[Verdicts] = []
    said: list[str] = []
    try:
        for inner, outer in folds(evidence):
            decision, notes = fit(evidence.take(inner), wishes, labels)
            verdicts.append(decision.judge(evidence.logits[outer], evidence.features[outer], evidence.statistics[outer]))
            rows.append(outer)
            decisions.append(decision)
            said += notes
    except UsageError as error:
        return {"reason": f"A decision cannot be fitted to four fifths of the groups: {error.given}", "n": len(evidence)}
    cases = evidence.take(np.concatenate(rows))
    lacking = _lacking(whole, decisions)
    figures = _calibration(cases, verdicts, before, labels) | _abstaining(cases, verdicts, lacking, labels)
    return {"n": len(cases), "reason": None, **figures, "notes": _reasons(lacking, said)}


def _lacking(whole: Decision, parts: list[Decision]) -> list[str]:
    """Returns which parts of the whole decision some of the five have not, by how the note on it begins."""
    wanted = None if whole.conformal is None else whole.conformal.limits
    others = [part.conformal.limits for part in parts if part.conformal is not None]
    found = {
        NO_TEMPERATURE: whole.temperature != 1 and any(part.temperature == 1 for part in parts),
        NO_SETS: wanted is not None and len(others) < len(parts),
        IN_EVERY_SET: wanted is not None
        and any(a is not None and b is None for limits in others for a, b in zip(wanted, limits, strict=True)),
        NO_GATE: whole.ood is not None and any(part.ood is None for part in parts),
    }
    return [name for name, missing in found.items() if missing]


_CONCERNED = {
    NO_TEMPERATURE: "Brier score and ECE on held-out groups are in part those of a decision without a temperature",
    NO_SETS: "Nothing is known of the prediction sets and of the share answered on held-out groups",
    IN_EVERY_SET: "Nothing is known of the prediction sets and of the share answered on held-out groups",
    NO_GATE: "Nothing is known of the share that the gate keeps and of the share answered on held-out groups",
}


def _reasons(lacking: list[str], said: list[str]) -> list[str]:
    """Returns what a part that is lacking means, with the first of the five notes that says why it is."""
    notes = [(name, next((note for note in said if name in note), "")) for name in lacking]
    return [f"{_CONCERNED[name]}: of four fifths of the groups it is said: {note}" for name, note in notes]


def _calibration(cases: Evidence, verdicts: list[Verdicts], before: Decision, labels: Labels) -> dict[str, Any]:
    earlier = before.probabilities(cases.logits)
    found = []
    for probabilities, predicted in (
        (earlier, before.predict(earlier)),
        (np.concatenate([one.probabilities for one in verdicts]), np.concatenate([one.predicted for one in verdicts])),
    ):
        found.append(estimates(cases.y_true, probabilities, predicted, cases.groups, labels.names)[0])
    first, now = found
    two = ("sensitivity", "specificity")
    return {
        **{name: {"before": first[name].as_dict(), "after": now[name].as_dict()} for name in ("brier", "ece")},
        "accuracy": now["accuracy"].as_dict(),
        **{name: now[name].as_dict() if labels.binary else None for name in two},
    }


def _abstaining(cases: Evidence, verdicts: list[Verdicts], lacking: list[str], labels: Labels) -> dict[str, Any]:
    sets = [one.sets for one in verdicts if one.sets is not None]
    scores = [one.ood_score for one in verdicts if one.ood_score is not None]
    abstain = [one.abstain for one in verdicts if one.abstain is not None]
    no_sets, no_gate = bool({NO_SETS, IN_EVERY_SET} & set(lacking)) or not sets, NO_GATE in lacking or not scores
    unsure = not abstain or bool({NO_SETS, IN_EVERY_SET, NO_GATE} & set(lacking))

    def share(parts: list[NDArray[np.bool_]]) -> dict[str, Any]:
        found: Estimate = mean_interval(np.concatenate(parts), cases.groups)
        return found.as_dict()

    return {
        "sets": None if no_sets else set_figures(cases.y_true, np.concatenate(sets), cases.groups, labels),
        "retained": None if no_gate else share([part <= 1 for part in scores]),
        "answered": None if unsure else share([~part for part in abstain]),
    }
