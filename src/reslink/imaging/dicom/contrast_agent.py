"""Decide from the header of a T1 image whether it was acquired after a contrast agent."""

from __future__ import annotations

import re
from typing import Final

from pydicom import Dataset

_AGENT: Final = r"(?:[ck]ontrast\w*|gad\w*|gd|km|mdc|inj(?:ect\w*)?)"

_WITHOUT: Final = (
    rf"(?<![a-z])(?:pre|non?|not|w/?o|without|ohne|vor|sans|sin|senza)[\s.-]*(?:i\.?v\.?\s)?(?:{_AGENT}|ce|c)(?![a-z])"
    r"|(?<![a-z])(?:pre(?!\W?(?:op|surg|treat|rad|rt|chemo|biops))|nativ\w*|(?:un|non)enhanced|plain)(?![a-z])"
    r"|(?<![a-z])c-(?![a-z0-9])"
)
"""Words in the names of series without an agent, or before it: ``pre``, ``w/o gad``, ``ohne KM``."""

_WITH: Final = (
    rf"(?<![a-z])(?:post(?!\W?(?:op|fossa|surg|treat|rad|rt|chemo|biops|resec|proc|stroke|trauma))(?:{_AGENT})?|{_AGENT}|ce|c\+)"
    rf"(?![a-z])|\+\s?(?:c|ce|{_AGENT})(?![a-z])|(?<![a-z0-9])t1w?(?:ce(?![a-z])|c(?![a-z0-9-]))"
)
"""Words in the names of series after an agent: ``post``, ``+C``, ``Gd``, ``t1ce``."""

_WITH_AND_WITHOUT: Final = r"(?<![a-z])w(?:ith)?\W*(?:and|&|\+)?\W*(?:w/?o|without)(?![a-z])"

_NO_AGENT: Final = (
    r"n|0|-+|(?:no|non|none|not|nein|nil|without|w/?o|ohne|kein\w*|nativ\w*|pre|unenhanced)(?:[^a-z].*)?"
    r"|non?[- ]?contrast.*"
)
"""What people enter as the contrast agent of an acquisition without one."""

_HIDDEN: Final = r"|anonym\w*|removed|redacted|deleted|unknown|unspecified|not (?:known|stated|specified|available)|n/?a|x+|\?+"
"""What de-identification leaves of a contrast agent."""


def has_contrast_agent(header: Dataset) -> bool | None:
    """Returns whether a contrast agent was given before an acquisition; None if the header hides or contradicts it.

    Series Description decides (Protocol Name if there is none), then the contrast agent. A header without one states that
    none was given (PS3.3 C.7.6.4), unless Protocol Name, which often names the whole study, speaks of an agent.
    """
    description, protocol = (_words(header, name) for name in ("SeriesDescription", "ProtocolName"))
    is_after, is_before = _stated_by(description or protocol)
    agent = _stated_agent(header)
    if is_after or is_before:
        return None if is_before and (is_after or agent == "named") else is_after
    if agent == "absent":
        return None if _stated_by(protocol)[0] else False
    return None if agent == "hidden" else agent == "named"


def _words(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").lower().replace("_", " ")


def _stated_by(words: str) -> tuple[bool, bool]:
    """Returns whether the name of a series says that it is after a contrast agent, and that it is before or without one."""
    others, n_without = re.subn(_WITHOUT, " ", words)
    both = re.search(_WITH_AND_WITHOUT, words) is not None
    return both or re.search(_WITH, others) is not None, both or n_without > 0


def _stated_agent(header: Dataset) -> str:
    """Returns what the header states of the agent: ``named``, ``none``, ``hidden`` or ``absent``."""
    if header.get("ContrastBolusAgentSequence"):  # enhanced objects have no Contrast/Bolus Agent
        return "named"
    agent = header.get("ContrastBolusAgent")
    if agent is None:
        return "hidden" if "ContrastBolusAgentSequence" in header else "absent"
    name = str(agent).strip().casefold()
    if re.fullmatch(_HIDDEN, name):
        return "hidden"
    return "none" if re.fullmatch(_NO_AGENT, name) else "named"
