"""The wheel, installed outside the clone: its core works without torch, and it trains beside the other packages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
OURS = Path(sysconfig.get_path("purelib"))
"""The packages of the environment that runs the tests."""


SMALL_HEADS = ("--patients", "14", "--seed", "1", "--set", "size=128", "--set", "slices=1")


class Installation:
    """A virtual environment that holds the wheel.

    Args:
        folder: Folder of the environment.
        work: Empty folder in which its commands run.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python, self.work = folder / "bin" / "python", work
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))

    def install(self, *words: str) -> None:
        """Runs pip of the environment that runs the tests, for this one."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-compile", *words], check=True, cwd=self.work)

    def link(self, requirements: list[str], extra: str) -> None:
        """Links what the requirements with an extra name, and what that needs, from the environment that runs the tests."""
        todo, seen = [(text, extra) for text in requirements], set[tuple[str, str]]()
        while todo:
            text, extra = one = todo.pop()
            requirement = Requirement(text)
            if one in seen or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
                continue
            seen.add(one)
            package = importlib.metadata.distribution(requirement.name)
            for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
                if not (self.packages / top).exists():
                    (self.packages / top).symlink_to(OURS / top)
            todo += [(below, part) for below in package.requires or [] for part in ("", *requirement.extras)]

    def command(self, *words: str) -> list[str]:
        return [str(self.python), "-m", "reslink", *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._run(self.command(*words))

    def evaluate(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self._run([str(self.python), "-c", program, *words])

    def evaluates(self, program: str) -> str:
        """Returns what a line of Python prints."""
        return self.evaluate(program).stdout.strip()

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.work, env=plain_environment(), capture_output=True, text=True, check=False)

    def succeeds(self, *words: str) -> str:
        result = self.run(*words)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout


def plain_environment() -> dict[str, str]:
    """Returns the environment without the variables that would lead Python back to the clone."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    [file] = folder.glob("reslink-*.whl")
    return file


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel with the extra ``serve`` and nothing else: no torch."""
    installation = Installation(tmp_path_factory.mktemp("core"), tmp_path_factory.mktemp("core_work"))
    [package] = importlib.metadata.distributions(path=[str(wheel)])
    installation.link(package.requires or [], "serve")
    installation.install("--no-index", "-c", str(ROOT / "constraints.txt"), f"{wheel}[serve]")  # ends if anything is missing
    return installation


@pytest.fixture(scope="module")
def whole(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel beside the packages of the environment that runs the tests, in which only reslink comes from the wheel."""
    installation = Installation(tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("whole_work"))
    installation.install("--no-deps", str(wheel))
    # Not a .pth file: a .pth file of the other folder, such as that of an editable installation, is not read in this way.
    (installation.packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return installation


@pytest.fixture(scope="module")
def heads(core: Installation) -> str:
    core.succeeds("phantom", "--out", "heads", *SMALL_HEADS)
    return "heads"


def answers(address: str, process: subprocess.Popen[bytes]) -> bool:
    """Waits until an address answers; False if the process ends first."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:  # not there yet, or too slow
            time.sleep(0.2)
    return False


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    return number


@pytest.mark.slow
def test_the_core_has_no_torch(core: Installation) -> None:
    absent = "import importlib.util as u; print([n for n in ('torch', 'captum', 'accelerate', 'onnx') if u.find_spec(n)])"
    assert core.evaluates(absent) == "[]"


def test_the_core_predicts_with_a_shipped_model(core: Installation) -> None:
    core.succeeds("phantom", "--out", "one", "--patients", "1", "--seed", "1", "--set", "slices=1")
    [image] = (core.work / "one" / "images").rglob("*.png")
    [line] = core.succeeds("predict", "ct", str(image), "--json").splitlines()
    assert set(json.loads(line)["probabilities"]) == {"Healthy", "Tumor"}


FEW_TREES = """
from reslink.audit.checks import label_errors, shortcuts
from reslink.cli.main import main

shortcuts.TREES = label_errors.TREES = 10
main()
"""
"""The command, with an audit whose models have few trees."""


def test_the_core_audits_and_splits(core: Installation, heads: str) -> None:
    result = core.evaluate(FEW_TREES, "audit", heads, "--out", "audited", "--workers", "0")
    assert result.returncode in (0, 3), result.stderr  # 3: a check failed, which these heads may make it do
    assert (core.work / "audited" / "report.html").stat().st_size > 10_000
    core.succeeds("split", heads, "--out", "split.csv")
    assert len((core.work / "split.csv").read_text().splitlines()) > 12


def test_the_core_serves_a_shipped_model(core: Installation, port: int) -> None:
    command, log = core.command("serve", "ct", "--port", str(port)), core.work / "serve.log"
    with log.open("w") as stream, subprocess.Popen(command, cwd=core.work, env=plain_environment(), stderr=stream) as process:
        try:
            assert answers(f"http://127.0.0.1:{port}/v1/models", process), log.read_text()
        finally:
            process.terminate()
    assert process.returncode == 0, log.read_text()


@pytest.mark.parametrize(
    "words",
    [("train", "heads", "--out", "run"), ("evaluate", "ct", "heads", "--out", "e"), ("explain", "ct", "heads", "--out", "x")],
)
def test_what_needs_torch_names_the_packages_to_install(words: tuple[str, ...], core: Installation, heads: str) -> None:
    result = core.run(*words)
    assert result.returncode == 2
    assert "is not installed" in result.stderr
    assert 'python -m pip install "accelerate' in result.stderr
    assert "torch" in result.stderr


def test_doctor_and_info_work_without_torch(core: Installation) -> None:
    assert json.loads(core.succeeds("info", "--json"))["packages"]["torch"] is None
    report = json.loads(core.succeeds("doctor", "--json"))
    assert report["ok"]


def test_the_wheel_trains_with_a_published_recipe(core: Installation, whole: Installation, heads: str) -> None:
    folder, fast = core.work / heads, ("--set", "preprocess.size=64", "--epochs", "1", "--seed", "1")
    whole.succeeds("train", str(folder), "--out", "run", "--recipe", "small", *fast)
    assert (whole.work / "run" / "report.html").exists()
    assert whole.succeeds("predict", "run/bundle", str(folder / "images")).count("\n") > 12
    assert Path(whole.evaluates("import reslink; print(reslink.__file__)")).is_relative_to(whole.packages)
