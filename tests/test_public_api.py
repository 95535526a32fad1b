"""``import reslink``: light, and its names lead where they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import reslink


def test_the_import_is_light_and_names_come_when_asked_for() -> None:
    program = (
        "import sys, reslink; heavy = {'torch', 'numpy', 'sklearn', 'pydantic'} & set(sys.modules); assert not heavy, heavy; "
        "reslink.Preprocess; assert 'torch' not in sys.modules; reslink.load_network; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_name_is_there_and_known_to_type_checkers() -> None:
    stub = Path(reslink.__file__).with_name("__init__.pyi").read_text()
    assert set(re.findall(r" as (\w+)$", stub, re.MULTILINE)) | {"__version__"} == set(reslink.__all__)
    assert set(reslink.__all__) <= set(dir(reslink))
    for name in reslink.__all__:
        assert getattr(reslink, name).__module__.startswith("reslink.") if name != "__version__" else reslink.__version__


def test_an_unknown_name_is_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'; it has Bundle, Classifier"):
        reslink.Clasifier  # noqa: B018
    assert not hasattr(reslink, "Clasifier")
