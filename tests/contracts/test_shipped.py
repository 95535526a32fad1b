"""What holds for every bundle that ships, and for the texts that their cards are made of."""

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
from reslink.bundles.pretrained import MOST_BYTES, missing_parts, shipping_of, traces

LOADS = (
    "import sys; from reslink.bundles.bundle import Bundle; Bundle.load(sys.argv[1] + '/'); sys.exit('torch' in sys.modules)"
)


def faults(folder: Path) -> list[str]:
    """What is wrong with a shipped bundle; empty where nothing is."""
    if subprocess.run([sys.executable, "-c", LOADS, str(folder)], capture_output=True, check=False).returncode:
        return ["it cannot be loaded without torch"]
    model, card, bundle = zoo.ShippedModel.read(folder), (folder / "MODEL_CARD.md").read_text(), Bundle.load(folder)
    told = shipping_of(bundle.provenance)
    assert told is not None
    first = card.split("---\n", 2)[2].lstrip().splitlines()[:6]
    checks = {
        f"{model.bytes} bytes": model.bytes < MOST_BYTES,
        "the first lines do not say what must be known": f"**Read this first.** {model.about}" in first,
        "research use only does not stand at the top": any("Research use only" in line for line in first),
        "no licence of the weights": f"Licence of the weights: {model.licence}." in card and model.licence != "not stated",
        "no figure with an interval": any(figure["ci_low"] is not None for figure in model.figures.values()),
        "no section": all(f"## {name}\n" in card for name in ("Data", "Leakage and shortcuts", "Evaluation", "Decision")),
        "no command that makes it again": "reslink train DATA" in card,
    }
    found = [fault for fault, right in checks.items() if not right]
    host = [] if len(platform.node()) < 6 else [platform.node()]
    missing = [part for part in missing_parts(bundle.decision) if part not in told.lacks]
    return [*found, *missing, *traces(folder, host)]


@pytest.mark.parametrize("name", zoo.names() or [None])
def test_every_shipped_bundle(name: str | None) -> None:
    if name is None:
        pytest.skip("no bundle ships with this checkout: src/reslink/bundles/shipped holds none")
    assert faults(zoo.SHIPPED / name) == []
    assert Bundle.load(zoo.SHIPPED / name).onnx_model is not None, "it predicts with torch only"


def test_a_bundle_that_was_built_has_no_fault(built_zoo: Path) -> None:
    assert faults(built_zoo / "ct") == []


def large(folder: Path) -> None:
    (folder / "more.bin").write_bytes(bytes(MOST_BYTES))


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
    "licence": lambda folder: card_with(folder, "Licence of the weights", ""),
    "interval": lambda folder: edited(folder, lambda record: record["metrics"].update(metrics={})),
    "section": lambda folder: card_with(folder, "## Leakage and shortcuts", ""),
    "makes it again": lambda folder: card_with(folder, "reslink train DATA", "make"),
    "prediction sets": lambda folder: edited(folder, lambda record: record["decision"].update(conformal=None)),
    "/home/jane": lambda folder: edited(folder, lambda record: record["provenance"].update(data="/home/jane")),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_seen(fault: str, built_zoo: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built_zoo / "ct", tmp_path / "ct"))
    PLANTED[fault](folder)
    assert any(fault in found for found in faults(folder))


def test_the_texts_name_what_must_be_known(root: Path, make_bundles: ModuleType) -> None:
    texts = make_bundles.read_texts(root / "benchmarks" / "shipped.yaml")
    assert set(texts) == {"ct", "mri4", "lgg"}
    assert 'Most traceable "Tumor" images' in texts["ct"].about
    assert "haemorrhages: it tells abnormal from normal head CT" in texts["ct"].about
    assert "labels of the source of this model are noisy" in texts["mri4"].about
    assert "no_tumor images come from other sources" in texts["mri4"].about
    assert set(zoo.names()) <= set(texts)


@pytest.mark.parametrize("name", ["ct", "mri4", "lgg"])
def test_a_shipped_bundle_says_what_the_texts_say(name: str, root: Path, make_bundles: ModuleType) -> None:
    entry, told = make_bundles.read_texts(root / "benchmarks" / "shipped.yaml")[name], Bundle.load(name).provenance
    own, story = entry.model_dump(exclude={"source", "licence", "calibrate"}), shipping_of(told)
    assert {key: getattr(story, key) for key in own} == own
    assert told["licence"] == entry.licence
    card = (zoo.SHIPPED / name / "MODEL_CARD.md").read_text()
    assert all(f"\n{command}\n" in card for command in entry.reproduce)
    assert entry.reproduce[0].startswith("OMP_NUM_THREADS=1 "), "another number of threads ends in other weights"


def test_the_licences_of_the_weights_are_stated_apart(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0 AND LicenseRef-Weights", "the wheel holds weights under other licences"
    assert "LICENSE-WEIGHTS.md" in project["license-files"]
    rows = (root / "LICENSE-WEIGHTS.md").read_text().splitlines()
    for model in zoo.shipped():
        assert f"| `{model.name}` | {model.licence} |" in rows
    for page in ("README.md", "MODEL_CARD.md"):
        assert "LICENSE-WEIGHTS.md" in (root / page).read_text()


def test_what_shipped_bundles_run_on_is_always_installed(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert any(one.startswith("onnxruntime") for one in project["dependencies"]), "predict ct would fall back to torch"


@pytest.mark.parametrize("name", ["ct", "mri4", "lgg"])
def test_the_texts_of_a_bundle_can_be_used(name: str, root: Path, make_bundles: ModuleType) -> None:
    from reslink.training.recipe.recipe import load_recipe

    entry = make_bundles.read_texts(root / "benchmarks" / "shipped.yaml")[name]
    entry.calibrate.wishes()
    assert entry.shipping(None).origin.licence
    trained = load_recipe(root / "recipes" / "small.yaml", ["seed=0"]).published()
    assert all("reproduce does not give" in fault for fault in make_bundles.recipe_faults(entry.reproduce, trained))
    assert any(f"make_bundles.py {name} RUN" in command for command in entry.reproduce)
    assert "research use only" in entry.licence
