"""The page about a study, made from its ``study.json`` alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslink import __version__
from reslink.errors import InputError
from reslink.files import write_atomic
from reslink.reports.experiment.charts import charts_of
from reslink.reports.jinja import template
from reslink.reports.run.page import RESEARCH_USE_ONLY
from reslink.reports.svg import COLOURS


def study_report(folder: str | Path) -> Path:
    """Writes ``report.html`` into the folder of a study, and its charts as SVG into ``figures/``.

    Args:
        folder: Where ``study.json`` stands.

    Returns:
        The page.

    Raises:
        InputError: If there is no ``study.json`` that can be read.
        StorageError: If the page cannot be written.
    """
    place = Path(folder)
    study = _read(place / "study.json")
    drawn = charts_of(study)
    for chart in drawn:
        write_atomic(place / "figures" / f"{chart.name}.svg", chart.standalone())
    page = template("study.html.j2", p=p_value).render(
        study=study,
        charts=drawn,
        notice=RESEARCH_USE_ONLY,
        version=__version__,
        colours={name: light for name, (_, light) in COLOURS.items()},
    )
    return write_atomic(place / "report.html", page)


def p_value(test: Mapping[str, Any]) -> str:
    """Returns the p-value of a test, the corrected one where there is one."""
    corrected, plain = test.get("p_holm"), test.get("p_value")
    value = plain if corrected is None else corrected
    if value is None:
        return ""
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", "A study leaves a study.json", "Run the study again") from error
    return found
