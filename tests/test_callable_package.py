"""Packages that can also be called."""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType

import pytest

import reslink
from reslink.api.audit import audit
from reslink.api.explain import explain


@pytest.mark.parametrize(("name", "function"), [("audit", audit), ("explain", explain)])
def test_the_package_calls_the_function_of_its_name(name: str, function: object, monkeypatch: pytest.MonkeyPatch) -> None:
    package = getattr(reslink, name)
    assert isinstance(package, ModuleType)
    assert inspect.signature(package) == inspect.signature(function)  # type: ignore[arg-type]
    monkeypatch.setattr(f"reslink.api.{name}.{name}", lambda *args, **kwargs: (args, kwargs))
    assert package("images/", out="x") == (("images/",), {"out": "x"})


@pytest.mark.parametrize(
    "statement",
    [
        "import reslink",
        "import reslink.audit.checks.duplicates",
        "from reslink.audit.audit import audit",
        "from reslink import *",
    ],
)
def test_it_stays_callable_whatever_was_imported(statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "reslink"]:
        monkeypatch.delitem(sys.modules, name)  # the statement is the first import, as in a new process
    program = f"{statement}; import reslink; assert callable(reslink.audit); assert callable(reslink.explain)"
    try:
        exec(program, {})
        assert sys.modules["reslink"] is not reslink
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "reslink"]:
            del sys.modules[name]


def test_its_modules_are_imported_as_usual() -> None:
    import reslink.audit.checks.duplicates

    assert reslink.audit.checks.duplicates is importlib.import_module("reslink.audit.checks.duplicates")
