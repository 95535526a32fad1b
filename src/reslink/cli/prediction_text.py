"""Text around printed predictions: abstention, errors and usage notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reslink.cli.console import Console

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.inference.prediction import LabelPrediction

NO_ANSWER = "no answer"


def prediction_cells(
    label: str,
    probabilities: Mapping[str, float],
    threshold: float | None,
    certainty: str | None,
    interval: str = "",
    caution: str = "",
) -> tuple[str, str]:
    """Returns the first cells of a printed prediction: the answer, and the probability that it comes from.

    Args:
        label: The predicted class.
        probabilities: The probability of each class. With two classes that of the positive one is shown, otherwise that of the
            label.
        threshold: The probability from which the positive class is the label, if there is one.
        certainty: The word for it, such as ``decided``; ``no answer`` takes the place of the label.
        interval: The interval of the probability, if there is one.
        caution: The accuracy on other data, from :func:`caution`; it goes with an answer.
    """
    shown = list(probabilities)[1] if len(probabilities) == 2 else label
    details = [f"threshold {threshold:.3f}"] if threshold is not None else []
    if certainty not in (None, NO_ANSWER):
        details.append(str(certainty))
    if caution and certainty != NO_ANSWER:
        details.append(caution)
    text = f"P({shown}) {probabilities[shown]:.3f}" + (f", 95 % interval {interval}" if interval else "")
    return (NO_ANSWER if certainty == NO_ANSWER else label), text + (f" ({', '.join(details)})" if details else "")


def caution(bundle: Bundle) -> str:
    """Returns the lowest accuracy of a shipped model on data of other hospitals; empty if none is recorded."""
    from reslink.bundles.pretrained import other_hospitals

    evaluations = other_hospitals(bundle.ledger)
    return f"other hospitals: accuracy {evaluations[0].accuracy:.2f}" if evaluations else ""


def label_cells(label: str, by_label: Mapping[str, LabelPrediction], intervals: Mapping[str, str]) -> tuple[str, str]:
    """Returns the first cells of a printed prediction for several labels at once: the answer, and every probability.

    Args:
        label: The labels that are present.
        by_label: The prediction for each label.
        intervals: The interval of a probability, by label.
    """
    from reslink.inference.prediction import answer_text

    texts = [
        prediction_cells(name, {name: one.probability}, one.threshold, one.certainty, intervals.get(name, ""))[1]
        for name, one in by_label.items()
    ]
    return answer_text(label, by_label), "; ".join(texts)


def abstention_cells(abstain: bool | None, reasons: Sequence[str] | None) -> list[str]:
    """Returns the last cell of a printed prediction: why the model abstains; empty if it does not."""
    return [f"abstains: {'; '.join(reasons or ())}"] if abstain else []


def error_line(name: str, path: str, error: str | None) -> str:
    """Returns the line for an image without a prediction: its name and the error, without the path that starts the error."""
    return f"{name}: {str(error).removeprefix(f'{path} ')}"


def print_usage_notes(console: Console, bundle: Bundle, *, predicted: bool = True) -> None:
    """Prints what a model is for, how it did on images of other hospitals, its limitations and the research-use notice.

    If the bundle has a threshold, the rule of the label is printed too: the label is then not always the more probable class.

    Args:
        console: The output.
        bundle: The bundle.
        predicted: Whether there is a prediction; if not, only the research-use notice is printed.
    """
    if predicted:
        from reslink.bundles.card.sections import label_rule
        from reslink.bundles.pretrained import usage_notes

        console.note(bundle.statement)
        if bundle.decision.threshold is not None or bundle.decision.by_label:
            console.note(f"The label is {label_rule(bundle.decision, bundle.labels).replace('`', '')}")
        for text in usage_notes(bundle.provenance, has_ood_detector=bundle.decision.ood is not None):
            console.note(text)
    console.research_use_only()
