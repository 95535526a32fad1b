"""The run folder of the tests of reports, for ``reslink report``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("reports_conftest", Path(__file__).parents[2] / "reports" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_reports)

make_run = _reports.make_run
