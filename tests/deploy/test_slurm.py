"""The batch scripts for Slurm: read, and run on this machine with stand-ins for ``srun`` and ``scontrol``."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
SCRIPTS = ("predict.sbatch", "train.sbatch")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on one node, which stays on 127.0.0.1."""
    path = [str(HERE / "slurm"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_CPUS_PER_TASK": "1",
        "SRUN_LOG": str(tmp_path / "srun.log"),
        "TMPDIR": str(tmp_path),
    }


@pytest.fixture
def stand_ins(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """The environment with a ``ray`` that starts nothing and a reslink that writes down what it got."""
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    (folder / "ray").write_text("#!/bin/bash\n[[ $1 == start ]] || exit 0\nexec sleep 600\n")
    (folder / "python").write_text(
        f"""#!/bin/bash
[[ "$1 $2" == "-m reslink" ]] || exec {sys.executable} "$@"
stat -c %a "$RAY_AUTH_TOKEN_PATH" "$(dirname "$RAY_AUTH_TOKEN_PATH")" > got
echo "$RAY_AUTH_MODE $RAY_USAGE_STATS_ENABLED ${{@: -2}}" >> got
sleep ${{SECONDS_OF_COMMAND:-0}} &
trap 'kill $!; exit 7' TERM
wait $!
exit 3
"""
    )
    for path in folder.iterdir():
        path.chmod(0o755)
    return {**environment, "PATH": os.pathsep.join([str(folder), environment["PATH"]])}


def start(deploy: Path, name: str, folder: Path, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = ["bash", str(deploy / "slurm" / name), *words]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(ready: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in (*folder.glob(".reslink-ray-*"), *folder.parent.glob("reslink-ray-*"))]


def options(text: str, command: str) -> set[str]:
    """Returns the long options in the lines of a script from a command on."""
    return {*re.findall(r"(?<![\w-])(--[a-z-]+)", text[text.index(command) :])}


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_reads_the_script(name: str, deploy: Path) -> None:
    script = deploy / "slurm" / name
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=False).returncode == 0
    assert os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_slurm_and_without_a_command_it_says_so(name: str, deploy: Path, environment: dict[str, str]) -> None:
    run = ["bash", deploy / "slurm" / name]
    alone = {key: value for key, value in environment.items() if not key.startswith("SLURM")}
    done = subprocess.run(run, env=alone, capture_output=True, text=True, check=False)
    assert "SLURM_JOB_ID: is missing. Submit this script with sbatch" in done.stderr
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "is missing. Add " in done.stderr) == (1, True)


def test_the_commands_of_the_usage_lines_exist(deploy: Path, parse: Callable[[list[str]], Any]) -> None:
    words = shlex.split(re.findall(r"train\.sbatch (.*)", (deploy / "slurm" / "train.sbatch").read_text())[0])
    assert str(parse(["train", *words])["out"]) == "/shared/runs/first"
    words = shlex.split(re.findall(r"predict\.sbatch (.*)", (deploy / "slurm" / "predict.sbatch").read_text())[0])
    assert parse([*words, "--on", "127.0.0.1:6379"])["on"] == "127.0.0.1:6379"


def test_torchrun_has_the_options(deploy: Path) -> None:
    run = pytest.importorskip("torch.distributed.run")
    known = {option for action in run.get_args_parser()._actions for option in action.option_strings}
    assert options((deploy / "slurm" / "train.sbatch").read_text(), "exec srun") <= known


def test_ray_has_the_options(deploy: Path) -> None:
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    from ray.scripts.scripts import start as ray_start

    known = {option for parameter in ray_start.params for option in parameter.opts}
    used = options((deploy / "slurm" / "predict.sbatch").read_text(), "ray start --block")
    assert used - known == {"--nodes", "--ntasks", "--relative", "--on"}, "those of srun and of reslink"
    assert {"--include-dashboard", "--dashboard-host", "--disable-usage-stats"} <= used


def test_reslink_gets_the_address_and_a_token_that_its_owner_only_can_read(
    deploy: Path, stand_ins: dict[str, str], tmp_path: Path
) -> None:
    job = start(deploy, "predict.sbatch", tmp_path / "job", stand_ins, "predict", "ct", "images", "--csv", "out.csv")
    said = job.communicate(timeout=300)[0]
    assert job.returncode == 3, said
    *modes, last = (tmp_path / "job" / "got").read_text().splitlines()
    assert modes == ["600", "700"]
    assert re.fullmatch(r"token 0 --on 127\.0\.0\.1:\d+", last)
    assert leftovers(tmp_path / "job") == []


def test_two_jobs_on_a_node_use_other_ports(deploy: Path, stand_ins: dict[str, str], tmp_path: Path) -> None:
    both = [start(deploy, "predict.sbatch", tmp_path / name, stand_ins, "predict", "x") for name in ("a", "b")]
    for job in both:
        job.communicate(timeout=300)
    log = Path(stand_ins["SRUN_LOG"]).read_text()
    ports = re.findall(r"-port=(\d+)", log)
    assert len(ports) - ports.count("0") == len({*ports} - {"0"}) == 4
    assert not {"6379", "8265", "10001", "52365"} & {*ports}, "the ports that every Ray takes first"


def test_a_signal_before_the_time_limit_ends_reslink_and_then_ray(
    deploy: Path, stand_ins: dict[str, str], tmp_path: Path
) -> None:
    folder, environment = tmp_path / "job", {**stand_ins, "SECONDS_OF_COMMAND": "600"}
    job = start(deploy, "predict.sbatch", folder, environment, "predict", "ct", "images")
    wait_for(lambda: (folder / "got").exists() and len(leftovers(folder)) == 2, job)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=300)[0]
    assert job.returncode == 7, said
    assert leftovers(folder) == []


def test_a_ray_that_does_not_start_ends_the_job(deploy: Path, stand_ins: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "stand-ins" / "ray").write_text("#!/bin/bash\nexit 1\n")
    job = start(deploy, "predict.sbatch", tmp_path / "job", stand_ins, "predict", "ct", "images")
    assert (
        "Ray did not start on localhost. The messages above show why. Submit the job again." in job.communicate(timeout=300)[0]
    )
    assert job.returncode == 1
    assert not (tmp_path / "job" / "got").exists()
    assert leftovers(tmp_path / "job") == []


@pytest.mark.slow
def test_predictions_run_on_the_ray_of_the_job(
    deploy: Path, environment: dict[str, str], tmp_path: Path, parse: Callable[[list[str]], Any]
) -> None:
    parse(["predict", "ct", "images", "--csv", "out.csv", "--on", "ray"])
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    folder = tmp_path / "job"
    shutil.copytree(deploy.parent / "docs" / "images", folder / "images", ignore=lambda _, names: [*names][3:])
    with TemporaryDirectory(dir="/tmp") as short:  # as the path of a socket has at most 107 bytes
        environment["TMPDIR"] = short
        job = start(deploy, "predict.sbatch", folder, environment, "predict", "ct", "images", "--csv", "out.csv")
        said = job.communicate(timeout=500)[0]
        assert job.returncode == 0, said
        assert leftovers(folder) == [*Path(short).iterdir()] == []
    assert len((folder / "out.csv").read_text().splitlines()) == 4
