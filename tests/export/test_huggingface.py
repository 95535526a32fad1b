"""The layout of Hugging Face."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reslink.bundles.bundle import Bundle


def test_it_is_read_back_and_described(check_export: Callable[[str, set[str]], Path]) -> None:
    check_export("hf", {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"})


def test_the_code_of_its_readme_loads_the_network(
    check_export: Callable[[str, set[str]], Path], saved: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = check_export("hf", {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"})
    monkeypatch.chdir(out)
    names: dict[str, torch.nn.Module] = {}
    [code] = re.findall(r"```python\n(import json.*?)```", (out / "README.md").read_text(), re.DOTALL)
    exec(code, names)
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(names["network"](x), saved.network()(x))
    config = json.loads((out / "config.json").read_text())
    assert (config["id2label"], config["label2id"]) == ({"0": "Healthy", "1": "Tumor"}, {"Healthy": 0, "Tumor": 1})
    assert config["decision"]["threshold"] == 0.22415658558997892
