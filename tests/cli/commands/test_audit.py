"""``reslink audit``: output, folders and exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink.audit.clean_copy import clean_copy
from reslink.cli.main import app
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import InputError


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    make_cohort(folder, PhantomSettings.parse({"patients": 4, "slices": 1, "size": 160}))
    return folder


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reslink.audit.checks.shortcuts.TREES", 10)


def run_audit(*words: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, words)])


def test_stdout_holds_only_json(cohort: Path) -> None:
    result = run_audit(cohort, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["images"], found["verdict"]) == (4, "incomplete"), "too few images for the probes"


def test_an_audit_is_not_overwritten_without_overwrite(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run_audit(cohort, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "Research use only" in result.stderr
    assert "shortcuts: outside_head\tskipped\tthere are 4 independent groups" in result.stdout
    assert (out / "audit.json").exists()
    assert (out / "report.html").exists()
    again = run_audit(cohort, "--out", out)
    assert again.exit_code == 2
    assert "already holds an audit" in again.stderr
    assert run_audit(cohort, "--out", out, "--overwrite", "--quiet").exit_code == 0


def test_a_failed_check_ends_with_3(cohort: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name, label in (("P0001", "A"), ("P0002", "B")):
        (data / label).mkdir(parents=True)
        for other in ("A", "B"):
            (data / label / f"{other}{name}.png").write_bytes((cohort / "images" / f"{name}_00.png").read_bytes())
    (data / "B" / "copy.png").write_bytes((cohort / "images" / "P0001_00.png").read_bytes())
    result = run_audit(data, "--json")
    assert result.exit_code == 3
    assert "1 image with more than one label" in result.stderr
    assert json.loads(result.stdout)["verdict"] == "fail"


def test_a_broken_file_ends_with_1_and_is_named(cohort: Path, tmp_path: Path) -> None:
    for label in "AB":
        (tmp_path / label).mkdir()
        for i, source in enumerate(sorted((cohort / "images").iterdir())[:2]):
            (tmp_path / label / f"{i}.png").write_bytes(source.read_bytes() if label == "A" else b"broken")
    result = run_audit(tmp_path, "--json")
    assert result.exit_code == 1
    assert "B/0.png is skipped" in result.stderr
    assert len(json.loads(result.stdout)["files"]["corrupt"]) == 2


def test_a_folder_that_is_missing_ends_with_2(tmp_path: Path) -> None:
    result = run_audit(tmp_path / "nothing", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "does not exist" in result.stderr


class TestOptionsAreCheckedBeforeAFileIsRead:
    @pytest.fixture
    def folders(self, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Class folders; an audit that begins would fail the test."""
        for label in "AB":
            (tmp_path / "data" / label).mkdir(parents=True)
            for i, source in enumerate(sorted((cohort / "images").iterdir())[:2]):
                (tmp_path / "data" / label / f"{i}.png").write_bytes(source.read_bytes())

        def began(*_: object, **__: object) -> None:
            raise AssertionError("the audit began")

        monkeypatch.setattr("reslink.audit.audit.run_audit", began)
        return tmp_path / "data"

    def refused(self, message: str, *words: object) -> None:
        result = run_audit(*words)
        assert result.exit_code == 2, (result.exit_code, result.exception, result.stderr)
        assert message in " ".join(result.stderr.split())

    def test_out_is_a_file_or_below_one(self, folders: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        self.refused("file is a file. --out must name a folder.", folders, "--out", tmp_path / "file")
        self.refused("file is a file. --out must name a folder.", folders, "--out", tmp_path / "file" / "deeper")
        assert (tmp_path / "file").read_text() == "mine"

    def test_out_cannot_be_written_to(self, folders: Path) -> None:
        self.refused("--out needs a folder with write permission", folders, "--out", "/proc/audit")

    def test_out_would_become_a_class(self, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused("is inside the data set", folders, "--out", folders / "audited")
        monkeypatch.chdir(folders)
        self.refused("is inside the data set", ".")
        assert sorted(path.name for path in folders.iterdir()) == ["A", "B"]

    @pytest.mark.usefixtures("folders")
    def test_out_next_to_a_table_is_allowed(self, cohort: Path) -> None:
        result = run_audit(cohort, "--out", cohort / "audited")
        assert result.exit_code == 1, result.stderr  # it began, and was stopped

    def test_fix_is_not_apart_or_not_empty(self, folders: Path, tmp_path: Path) -> None:
        self.refused("overlaps the data set", folders, "--fix", folders / "clean")
        (tmp_path / "used").mkdir()
        (tmp_path / "used" / "mine").write_text("x")
        self.refused("is not empty", folders, "--fix", tmp_path / "used")
        self.refused("mine is a file. --fix must name a folder.", folders, "--fix", tmp_path / "used" / "mine")
        self.refused("mine is a file. --fix must name a folder.", folders, "--fix", tmp_path / "used" / "mine" / "deeper")
        self.refused("--fix needs a folder with write permission", folders, "--fix", "/proc/clean")

    def test_the_audit_is_not_inside_the_clean_copy(self, folders: Path, tmp_path: Path) -> None:
        self.refused("inside the clean copy", folders, "--out", tmp_path / "new", "--fix", tmp_path / "new")
        self.refused("inside the clean copy", folders, "--out", tmp_path / "new" / "audit", "--fix", tmp_path / "new")


def test_a_readable_file_that_the_clean_copy_lacks_ends_with_1(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = clean_copy.encode_clean_file

    def encode_clean_file(path: Path, name: str, *rest: object) -> tuple[bytes, str]:
        if path.name.startswith("P0001"):
            raise InputError(f"{name} cannot be encoded again", "Others can", "Convert it")
        return plain(path, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(clean_copy, "encode_clean_file", encode_clean_file)
    result = run_audit(cohort, "--fix", tmp_path / "clean")
    assert result.exit_code == 1
    assert "P0001_00.png cannot be encoded again" in result.stderr


def test_a_broken_file_whose_name_is_not_utf8_is_named(cohort: Path, tmp_path: Path) -> None:
    for label in "AB":
        (tmp_path / "data" / label).mkdir(parents=True)
        for i, source in enumerate(sorted((cohort / "images").iterdir())[("AB".index(label)) :: 2]):
            (tmp_path / "data" / label / f"{i}.png").write_bytes(source.read_bytes())
    odd = os.fsencode(tmp_path / "data" / "A") + b"/\xff\xfe.png"
    Path(os.fsdecode(odd)).write_bytes(b"x")
    result = run_audit(tmp_path / "data", "--out", tmp_path / "out", "--fix", tmp_path / "clean")
    assert result.exit_code == 1, (result.stderr, result.exception)
    assert r"A/\xff\xfe.png is skipped" in result.stderr
    assert r"A/\xff\xfe.png" in (tmp_path / "clean" / "private" / "changes.csv").read_text(encoding="utf-8")
