"""The layout: no import circles, small packages, and tests that mirror the source tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

MOST_MODULES = 15
MOST_MODULES_OF = {"cli/commands": 28, "datasets": 25}  # a command is a module
MOST_MODULES_OF_ONE_TEST = 5
"""A test file named after its package serves a package of at most this many modules."""

TESTED_ELSEWHERE = {
    "audit/extract.py": "audit/test_audit.py",
    "cli/commands/evaluate.py": "end_to_end/test_workflow.py",
    "cli/commands/train.py": "end_to_end/test_workflow.py",
    "inference/series_mode.py": "inference/test_series_answers.py",
}
"""Modules whose tests need the fixtures of another test file."""


def import_circle(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Returns the modules of one import circle, the first one again at the end; an empty list where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def modules_of(package: Path) -> list[str]:
    return [path.stem for path in package.glob("*.py") if path.stem not in ("__init__", "__main__")]


def untested(source: Path, tests: Path) -> list[str]:
    """Returns the modules without a test: ``test_<module>.py`` in the mirrored folder, or one for their small package."""
    missing = []
    for path in sorted(source.rglob("*.py")):
        if path.stem in ("__init__", "__main__"):
            continue
        folder = tests / path.parent.relative_to(source)
        small = path.parent != source and len(modules_of(path.parent)) <= MOST_MODULES_OF_ONE_TEST
        tested = (folder / f"test_{path.stem}.py").exists() or (small and (folder / f"test_{path.parent.name}.py").exists())
        if not tested:
            missing.append(str(path.relative_to(source)))
    return missing


def misplaced(source: Path, tests: Path, outside: set[str]) -> list[str]:
    """Returns the test files that mirror neither a module nor a package of the source."""
    wrong = []
    for path in sorted(tests.rglob("test_*.py")):
        place = path.relative_to(tests)
        if place.parts[0] in outside or place.parent == Path():
            continue
        name = path.stem.removeprefix("test_")
        if not (source / place.parent / f"{name}.py").exists() and place.parent.name != name:
            wrong.append(str(place))
    return wrong


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("reslink", cache_dir=None)
    packages = {module for module in graph.modules if graph.find_children(module)}
    imports = {module: graph.find_modules_directly_imported_by(module) - packages for module in graph.modules - packages}
    assert import_circle(imports) == []


def test_a_planted_circle_is_noticed() -> None:
    assert set(import_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert import_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_package_holds_too_many_modules(root: Path) -> None:
    source = root / "src" / "reslink"
    counts = {str(path.parent.relative_to(source)): len(modules_of(path.parent)) for path in source.rglob("__init__.py")}
    assert {name: n for name, n in counts.items() if n > MOST_MODULES_OF.get(name, MOST_MODULES)} == {}


def test_every_module_has_a_test_file_of_its_own_or_of_its_small_package(root: Path) -> None:
    assert untested(root / "src" / "reslink", root / "tests") == sorted(TESTED_ELSEWHERE)
    assert all((root / "tests" / test).exists() for test in TESTED_ELSEWHERE.values())


def test_every_test_file_mirrors_a_module_or_a_package(root: Path) -> None:
    outside = {"benchmarks", "contracts", "deploy", "end_to_end", "golden", "soak", "docs"}
    assert misplaced(root / "src" / "reslink", root / "tests", outside) == []


@pytest.mark.parametrize(("test", "missing"), [("a/test_b.py", []), ("a/test_a.py", []), ("test_b.py", ["a/b.py"])])
def test_a_module_without_a_test_is_noticed(test: str, missing: list[str], tmp_path: Path) -> None:
    for name in ("src/a/__init__.py", "src/a/b.py", f"tests/{test}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert untested(tmp_path / "src", tmp_path / "tests") == missing


@pytest.mark.parametrize(("modules", "missing"), [(MOST_MODULES_OF_ONE_TEST, 0), (MOST_MODULES_OF_ONE_TEST + 1, 6)])
def test_one_test_file_serves_a_small_package_only(modules: int, missing: int, tmp_path: Path) -> None:
    for name in ("src/a/__init__.py", "tests/a/test_a.py", *(f"src/a/m{i}.py" for i in range(modules))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(untested(tmp_path / "src", tmp_path / "tests")) == missing
