"""Rules that every source file follows; each exception has its reason beside it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

MOST_LINES = 500
MOST_BODY_LINES = 60
EXCEPTIONS: dict[str, set[str]] = {
    "long files": set(),
    "long functions": set(),
    "unsafe": set(),
    "below cli": {
        "src/reslink/cores.py",  # a worker process ends itself when its parent has died
        "src/reslink/api/audit_memory.py",  # the cache folder of the user is named by a variable
        "src/reslink/cluster/connection.py",  # Ray takes its token and its network from variables
        "src/reslink/cluster/training.py",  # as api/train.py, on a node
        "src/reslink/files.py",  # the telemetry of some packages is off only if a variable is set
        "src/reslink/training/tracking/trackers.py",  # a variable names the folder of wandb's logs
        "src/reslink/api/cv.py",  # as in train.py
        "src/reslink/api/train.py",  # CUDA is deterministic only if a variable is set; torchrun tells the rank in one
    },
}

UNSAFE = {
    "pickle": re.compile(r"^\s*(import|from)\s+(pickle|cloudpickle|dill|joblib|shelve|marshal)\b", re.MULTILINE),
    "torch.load": re.compile(r"\btorch\.(load|jit\.load|hub)\b"),
    "eval or exec": re.compile(r"(?<![\w.])(eval|exec)\("),
    "unsafe yaml": re.compile(r"\byaml\.(unsafe_load|full_load|load_all|load)\((?!.*\b_Loader\))"),
    "numpy pickle": re.compile(r"allow_pickle\s*=\s*True"),
    "shell": re.compile(r"shell\s*=\s*True|\bos\.(system|popen)\("),
    "archive": re.compile(r"\.extract(all)?\("),
    "files read by OpenCV": re.compile(r"\bcv2\.(im(read|decode|count|write)|VideoCapture|VideoWriter|FileStorage|dnn)"),
    "global random state": re.compile(r"\btorch\.manual_seed\(|\bnp\.random\.seed\(|\brandom\.seed\("),
}
BELOW_CLI = {
    "print": re.compile(r"(?<![\w.])print\("),
    "exit": re.compile(r"\bsys\.exit\(|\bos\._exit\("),
    "environment": re.compile(r"\bos\.(environ|getenv)\b"),
    "network": re.compile(r"^\s*(import|from)\s+(socket|urllib\.request|http\.client|requests|httpx)\b", re.MULTILINE),
}


def unsafe_in(text: str, rules: dict[str, re.Pattern[str]]) -> list[str]:
    return [name for name, pattern in rules.items() if pattern.search(text)]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods of public classes without a docstring."""
    missing = [] if ast.get_docstring(tree) is not None or not tree.body else ["module"]
    owners: list[ast.Module | ast.ClassDef] = [tree]
    while owners:
        for node in owners.pop().body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                overload = any(
                    "overload" in ast.unparse(mark) or "override" in ast.unparse(mark) for mark in node.decorator_list
                )
                missing += [node.name] if ast.get_docstring(node) is None and not overload else []
                owners += [node] if isinstance(node, ast.ClassDef) else []
    return missing


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pickle", "import pickle"),
        ("torch.load", "state = torch.load(path)"),
        ("eval or exec", "x = eval('1')"),
        ("unsafe yaml", "yaml.load(text)"),
        ("shell", "subprocess.run(c, shell=True)"),
        ("archive", "tar.extractall(out)"),
        ("files read by OpenCV", "cv2.imdecode(data, 0)"),
    ],
)
def test_the_gate_sees_a_planted_fault(name: str, text: str) -> None:
    assert unsafe_in(text, UNSAFE) == [name]


def test_the_gate_lets_good_code_pass() -> None:
    good = "network.eval()\nyaml.safe_load(text)\nsafetensors.torch.load_file(path)\nre.compile('x')\n"
    assert unsafe_in(good, UNSAFE) == []


def test_nothing_unsafe_is_called(sources: list[Path], root: Path) -> None:
    found = {str(path.relative_to(root)): unsafe_in(path.read_text(), UNSAFE) for path in sources}
    assert {name: rules for name, rules in found.items() if rules and name not in EXCEPTIONS["unsafe"]} == {}


def test_every_loader_of_yaml_is_a_safe_one(sources: list[Path]) -> None:
    for text in (path.read_text() for path in sources):
        if "_Loader)" in text:
            assert "class _Loader(yaml.SafeLoader):" in text


def test_below_cli_nothing_prints_exits_or_reads_the_environment(sources: list[Path], root: Path) -> None:
    below = [path for path in sources if "cli" not in path.parts]
    listening = {name: rule for name, rule in BELOW_CLI.items() if name != "network"}  # which is what serving is for
    found = {
        str(path.relative_to(root)): unsafe_in(path.read_text(), listening if "serving" in path.parts else BELOW_CLI)
        for path in below
    }
    assert {name: rules for name, rules in found.items() if rules and name not in EXCEPTIONS["below cli"]} == {}


def test_only_one_module_fetches_the_files_that_users_name(sources: list[Path]) -> None:
    used = re.compile(
        r"""["'](fsspec|s3fs|gcsfs|adlfs|aiohttp)["']|^\s*(import|from)\s+(fsspec|s3fs|gcsfs|adlfs|aiohttp)\b""", re.M
    )
    assert [path.name for path in sources if used.search(path.read_text())] == ["remote_files.py"]


def test_files_are_short(sources: list[Path]) -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in sources}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES and name not in EXCEPTIONS["long files"]} == {}


def test_functions_are_short(sources: list[Path]) -> None:
    long = {
        f"{path.name}:{node.name}": body_lines(node)
        for path in sources
        for node in functions(ast.parse(path.read_text()))
        if body_lines(node) > MOST_BODY_LINES
    }
    assert {name: n for name, n in long.items() if name not in EXCEPTIONS["long functions"]} == {}


def test_the_measure_of_a_function_leaves_out_its_docstring() -> None:
    [node] = functions(ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n    return a\n'))
    assert body_lines(node) == 2


def test_the_public_interface_is_documented(sources: list[Path], root: Path) -> None:
    found = {str(path.relative_to(root)): undocumented(ast.parse(path.read_text())) for path in sources}
    assert {name: missing for name, missing in found.items() if missing} == {}


def test_a_missing_docstring_is_seen() -> None:
    tree = ast.parse(
        '"""M."""\nclass A:\n    """A."""\n    def b(self):\n        return 1\n    def _c(self):\n        return 1\n'
    )
    assert undocumented(tree) == ["b"]
