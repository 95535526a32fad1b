"""Loads the report templates: escaped, strict about missing values, with the filters and globals of every page."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from reslink import __version__
from reslink.metrics.classification import METRIC_NAMES
from reslink.reports import formatting
from reslink.reports.svg import COLORS

RESEARCH_USE_ONLY = "Research use only – not for diagnosis"


def load_template(name: str) -> Template:
    """Returns a template.

    Args:
        name: File name of the template, such as ``run.html.j2``.
    """
    environment = Environment(
        loader=PackageLoader("reslink.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": formatting.format_number,
        "difference": formatting.format_difference,
        "interval": formatting.format_interval,
        "p_value": formatting.format_p_value,
        "count": formatting.format_count,
        "sentence": formatting.start_sentence,
    }
    environment.globals |= {
        "notice": RESEARCH_USE_ONLY,
        "version": __version__,
        "metric_names": METRIC_NAMES,
        "colors": {name: light for name, (_, light) in COLORS.items()},
    }
    return environment.get_template(name)
