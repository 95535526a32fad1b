"""The templates are escaped and strict."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from reslink.reports.jinja import RESEARCH_USE_ONLY, load_template


def render(source: str, **values: object) -> str:
    return load_template("run.html.j2").environment.from_string(source).render(values)


def test_values_are_escaped() -> None:
    assert render("<b>{{ name }}</b>", name="<script>") == "<b>&lt;script&gt;</b>"


def test_a_missing_value_raises() -> None:
    with pytest.raises(UndefinedError, match="'missing' is undefined"):
        render("{{ missing }}")


def test_filters_and_globals_of_every_page() -> None:
    assert render("{{ 0.51234 | number }} {{ -0.05 | difference }} {{ notice }}") == f"0.512 −0.050 {RESEARCH_USE_ONLY}"
    assert render("{{ metric_names.auroc }} {{ colors.ink }}") == "AUROC #1b1f24"
