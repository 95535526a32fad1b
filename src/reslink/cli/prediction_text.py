"""Text around printed predictions: abstention, errors and usage notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reslink.cli.console import Console

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle


def abstention_text(abstain: bool | None, reasons: Sequence[str] | None) -> str:
    """Returns the last column of a printed prediction, with its tab: why the model abstains, or an empty text."""
    return f"\tabstains: {'; '.join(reasons or ())}" if abstain else ""


def error_line(name: str, path: str, error: str | None) -> str:
    """Returns the line for an image without a prediction: its name and the error, without the path that starts the error."""
    return f"{name}: {str(error).removeprefix(f'{path} ')}"


def print_usage_notes(console: Console, bundle: Bundle, *, predicted: bool = True) -> None:
    """Prints the limitations of a model and the research-use notice.

    If the bundle has a threshold, the rule of the label is printed too: the label is then not always the more probable class.

    Args:
        console: The output.
        bundle: The bundle.
        predicted: Whether there is a prediction; if not, only the research-use notice is printed.
    """
    if predicted:
        from reslink.bundles.card.sections import label_rule
        from reslink.bundles.pretrained import usage_notes

        if bundle.decision.threshold is not None:
            console.note(f"The label is {label_rule(bundle.decision, bundle.labels).replace('`', '')}")
        for text in usage_notes(bundle.provenance, has_ood_detector=bundle.decision.ood is not None):
            console.note(text)
    console.research_use_only()
