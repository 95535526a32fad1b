"""``import reslink``: light, and its public names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import reslink
from reslink.datasets.case import Case
from reslink.labels import Labels


def test_the_import_is_light_and_names_are_imported_on_first_use() -> None:
    program = (
        "import sys, reslink; heavy = {'torch', 'numpy', 'sklearn', 'pydantic'} & set(sys.modules); assert not heavy, heavy; "
        "reslink.Preprocess; reslink.predict; reslink.split; reslink.audit; reslink.load_network; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_dir_lists_the_public_names_only() -> None:
    assert dir(reslink) == sorted(reslink.__all__)
    assert {"train", "evaluate", "explain", "predict", "audit", "split"} <= set(reslink.__all__)


def test_every_name_exists_and_is_declared_for_type_checkers() -> None:
    stub = Path(reslink.__file__).with_name("__init__.pyi").read_text()
    assert set(re.findall(r" as (\w+)$", stub, re.MULTILINE)) | {"__version__"} == set(reslink.__all__)
    for name in set(reslink.__all__) - {"__version__"}:
        value = getattr(reslink, name)
        assert callable(value), name
        assert value.__doc__, name


def test_an_unknown_name_lists_the_public_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'; it has Bundle, Classifier"):
        reslink.Clasifier  # noqa: B018
    assert not hasattr(reslink, "Clasifier")


class TestViews:
    """``repr`` and the HTML view of the public objects."""

    def test_prediction(self) -> None:
        prediction = reslink.Prediction(
            "<a>.png", 2, "Tumor", 0.9741, {"Healthy": 0.0259, "Tumor": 0.9741}, ("Tumor",), True, ("far from the data",), 1.5
        )
        assert repr(prediction) == "Prediction(<a>.png slice 2: Tumor, probability 0.974, abstains: far from the data)"
        html = prediction._repr_html_()
        assert "&lt;a&gt;.png" in html
        assert "<a>" not in html
        assert "probability of Tumor</th><td style='text-align:left'>0.974" in html
        assert repr(reslink.Prediction("b.png", error="broken")) == "Prediction(b.png: error 'broken')"

    def test_manifest(self, tmp_path: Path) -> None:
        cases = (Case(tmp_path / "a.png", "A", "p1", split="train"), Case(tmp_path / "b.png", "B", "p1", split="test"))
        manifest = reslink.Manifest(cases, Labels(("A", "B")), tmp_path / "heads")
        text = "Manifest(folder: heads, cases: 2, classes: A 1, B 1, patients: 1, splits: train 1, test 1)"
        assert repr(manifest) == text
        assert "<td style='text-align:left'>A 1, B 1</td>" in manifest._repr_html_()

    def test_bundle_and_classifier(self, finished_run: Path) -> None:
        bundle = reslink.Bundle.load(finished_run)
        assert repr(bundle).startswith("Bundle(name: ")
        assert "network: tiny, classes: Healthy / Tumor, images: CT or MR of the head, input: 1×64×64" in repr(bundle)
        assert "<td style='text-align:left'>Healthy / Tumor</td>" in bundle._repr_html_()
        classifier = reslink.Classifier.load(finished_run, device="cpu")
        assert repr(classifier) == f"Classifier(backend: torch, {bundle!r})"
        assert "torch" in classifier._repr_html_()
