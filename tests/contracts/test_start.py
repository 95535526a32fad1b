"""What the command may import and open before a verb runs."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

HEAVY = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "pydicom", "kornia", "captum", "accelerate")
HELP = """
import sys, json
sys.argv = ["reslink", {words}]
from reslink.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps({{"code": code, "modules": [name for name in {heavy!r} if name in sys.modules]}}))
"""


def run(words: str) -> dict[str, object]:
    program = HELP.format(words=words, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_help_imports_nothing_heavy() -> None:
    assert run("'--help'") == {"code": 0, "modules": []}


def test_help_of_a_verb_imports_nothing_heavy() -> None:
    assert run("'train', '--help'") == {"code": 0, "modules": []}


def test_a_verb_that_needs_torch_is_seen_to_import_it() -> None:
    assert "torch" in run("'info', '--json'")["modules"]  # type: ignore[operator]


def test_help_is_quick() -> None:
    """Measured as processor time, which a busy machine does not change much; on an idle one it is the wall time too."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "reslink", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.6
