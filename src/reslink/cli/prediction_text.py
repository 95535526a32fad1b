"""What every verb that prints an answer says with it: that the bundle abstains, and what must be known first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reslink.cli.console import Console

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle


def abstention(abstain: bool | None, reasons: Sequence[str] | None) -> str:
    """Returns the last column of an answer, with its tab: why the bundle abstains; empty where it does not."""
    return f"\tabstains: {'; '.join(reasons or ())}" if abstain else ""


def failure(where: str, path: str, error: str | None) -> str:
    """Returns the line of an image without an answer: its place and why, without the path at the beginning of the error."""
    return f"{where}: {str(error).removeprefix(f'{path} ')}"


def known_first(console: Console, bundle: Bundle, *, answered: bool = True) -> None:
    """Says what must be known before an answer of a bundle is used, and that it is for research only.

    Where a threshold decides, it is said: the label then need not be the more probable class. Where there is no answer, only
    the last is said.
    """
    if not answered:
        console.research_use_only()
        return
    from reslink.bundles.card.sections import label_rule
    from reslink.bundles.pretrained import read_first

    if bundle.decision.threshold is not None:
        console.note(f"The label is {label_rule(bundle).replace('`', '')}")
    for text in read_first(bundle.provenance, gated=bundle.decision.ood is not None):
        console.note(text)
    console.research_use_only()
