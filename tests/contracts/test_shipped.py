"""Requirements for every shipped bundle of the package and for the texts of its card."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.pretrained import MAX_BUNDLE_BYTES, find_private_strings, missing_components, pretrained_info

LOADS = (
    "import sys; from reslink.bundles.bundle import Bundle; Bundle.load(sys.argv[1] + '/'); sys.exit('torch' in sys.modules)"
)


def faults(folder: Path) -> list[str]:
    """Returns the faults of a shipped bundle; empty if there are none."""
    if subprocess.run([sys.executable, "-c", LOADS, str(folder)], capture_output=True, check=False).returncode:
        return ["it cannot be loaded without torch"]
    model, card, bundle = zoo.ShippedModel.read(folder), (folder / "MODEL_CARD.md").read_text(), Bundle.load(folder)
    info = pretrained_info(bundle.provenance)
    assert info is not None
    first = card.split("---\n", 2)[2].lstrip().splitlines()[:6]
    checks = {
        f"{model.bytes} bytes": model.bytes < MAX_BUNDLE_BYTES,
        "the first lines are not the usage notes": f"**Read this first.** {model.usage_notes}" in first,
        "research use only is not at the top": any("Research use only" in line for line in first),
        "no license of the weights": f"License of the weights: {model.license}." in card and model.license != "not stated",
        "no metric with an interval": any(metric["ci_low"] is not None for metric in model.metrics.values()),
        "no section": all(f"## {name}\n" in card for name in ("Data", "Leakage and shortcuts", "Evaluation", "Decision")),
        "no command that reproduces it": "reslink train DATA" in card,
    }
    failed = [fault for fault, passed in checks.items() if not passed]
    host = [] if len(platform.node()) < 6 else [platform.node()]
    missing = [part for part in missing_components(bundle.decision) if part not in info.missing_components]
    return [*failed, *missing, *find_private_strings(folder, host)]


@pytest.mark.parametrize("name", zoo.names() or [None])
def test_every_shipped_bundle(name: str | None) -> None:
    if name is None:
        pytest.skip("no bundle ships with this checkout: src/reslink/bundles/shipped holds none")
    assert faults(zoo.SHIPPED / name) == []
    assert Bundle.load(zoo.SHIPPED / name).onnx_model is not None, "it predicts with torch only"


def test_a_bundle_that_was_built_has_no_fault(built_zoo: Path) -> None:
    assert faults(built_zoo / "ct") == []


def large(folder: Path) -> None:
    (folder / "more.bin").write_bytes(bytes(MAX_BUNDLE_BYTES))


def without_torch(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def edited(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "bundle.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def card_with(folder: Path, old: str, new: str) -> None:
    path = folder / "MODEL_CARD.md"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


PLANTED: dict[str, Callable[[Path], object]] = {
    "bytes": large,
    "cannot be loaded": without_torch,
    "first lines": lambda folder: card_with(folder, "**Read this first.**", ""),
    "research use only": lambda folder: card_with(folder, "**Research use only", "**"),
    "license": lambda folder: card_with(folder, "License of the weights", ""),
    "interval": lambda folder: edited(folder, lambda record: record["metrics"].update(metrics={})),
    "section": lambda folder: card_with(folder, "## Leakage and shortcuts", ""),
    "reproduces it": lambda folder: card_with(folder, "reslink train DATA", "make"),
    "prediction sets": lambda folder: edited(folder, lambda record: record["decision"].update(conformal=None)),
    "/home/jane": lambda folder: edited(folder, lambda record: record["provenance"].update(data="/home/jane")),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_seen(fault: str, built_zoo: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built_zoo / "ct", tmp_path / "ct"))
    PLANTED[fault](folder)
    assert any(fault in found for found in faults(folder))


def test_the_usage_notes_name_the_main_limitations(root: Path, make_bundles: ModuleType) -> None:
    texts = make_bundles.read_texts(root / "benchmarks" / "shipped.yaml")
    assert set(texts) == {"ct", "ct-2026-11", "mri4", "mri4-2026-11", "lgg"}
    assert 'Most traceable "Tumor" images' in texts["ct"].usage_notes
    assert "hemorrhages. It separates abnormal from normal head CT" in texts["ct"].usage_notes
    assert "Do not take no_tumor as the exclusion of a tumor" in texts["mri4"].usage_notes
    assert "no_tumor images come from" in texts["mri4"].usage_notes
    assert set(zoo.names()) <= set(texts)


@pytest.mark.parametrize("name", ["ct", "ct-2026-11", "mri4", "mri4-2026-11", "lgg"])
def test_a_pretrained_bundle_matches_the_texts(name: str, root: Path, make_bundles: ModuleType) -> None:
    entry, bundle = make_bundles.read_texts(root / "benchmarks" / "shipped.yaml")[name], Bundle.load(name)
    provenance = bundle.provenance
    texts, info = entry.model_dump(exclude={"source", "license", "calibrate", "scope"}), pretrained_info(provenance)
    assert bundle.scope.model_copy(update={"min_brain_share": None}) == entry.bundle_scope
    assert bundle.scope.min_brain_share == (0.25 if name == "ct" else None)
    assert info is not None
    described = info.model_dump()
    assert {key: described[key] for key in texts} == texts
    assert provenance["license"] == entry.license
    card = (zoo.SHIPPED / name / "MODEL_CARD.md").read_text()
    assert all(f"\n{command}\n" in card for command in entry.reproduce)
    training = next(command for command in entry.reproduce if "reslink train" in command)
    assert training.startswith("OMP_NUM_THREADS=1 "), "another number of threads ends in other weights"


def test_the_licenses_of_the_weights_are_stated_separately(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0 AND LicenseRef-Weights", "the wheel holds weights under other licenses"
    assert "LICENSE-WEIGHTS.md" in project["license-files"]
    rows = (root / "LICENSE-WEIGHTS.md").read_text().splitlines()
    for model in zoo.shipped():
        assert f"| `{model.name}` | {model.license} |" in rows
    for page in ("README.md", "MODEL_CARD.md"):
        assert "LICENSE-WEIGHTS.md" in (root / page).read_text()


def test_what_shipped_bundles_run_on_is_always_installed(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert any(one.startswith("onnxruntime") for one in project["dependencies"]), "predict ct would fall back to torch"


@pytest.mark.parametrize("name", ["ct", "ct-2026-11", "mri4", "mri4-2026-11", "lgg"])
def test_the_texts_of_a_bundle_can_be_used(name: str, root: Path, make_bundles: ModuleType) -> None:
    from reslink.training.recipe.recipe import load_recipe

    entry = make_bundles.read_texts(root / "benchmarks" / "shipped.yaml")[name]
    entry.calibrate.decision_options()
    assert entry.pretrained_info(None, []).source.license
    trained = load_recipe("small", ["seed=0"]).published()
    assert all("reproduce does not give" in fault for fault in make_bundles.recipe_differences(entry.reproduce, trained))
    assert any(f"make_bundles.py {name} RUN" in command for command in entry.reproduce)
    assert "research use only" in entry.license
