"""Bundles are written and read back; everything else is refused."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError, UsageError
from reslink.labels import Labels


def test_a_saved_bundle_is_loaded(saved, network):
    loaded = Bundle.load(saved.folder)
    assert loaded == saved
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    found = loaded.network()
    assert not found.training
    with torch.no_grad():
        assert torch.equal(found(x), network(x))


def test_reading_a_bundle_imports_no_torch(saved):
    code = (
        "import sys; from reslink.bundles.bundle import Bundle; b = Bundle.load(sys.argv[1]);"
        "b.decision.probabilities([[0.0, 1.0]]);"
        "assert b.labels.positive == 'Tumor'; assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code, str(saved.folder)], check=True)


def test_a_single_logit_fits_two_labels_only(bundle):
    single = {**bundle.architecture, "num_classes": 1}
    assert dataclasses.replace(bundle, architecture=single).labels.binary
    with pytest.raises(BundleError, match=r"num_classes is 1, but there are 3 labels"):
        dataclasses.replace(bundle, architecture=single, labels=Labels(("a", "b", "c")), decision=Decision(threshold=None))


def test_a_threshold_does_not_fit_three_labels(bundle):
    three = {**bundle.architecture, "num_classes": 3}
    with pytest.raises(UsageError, match="for 3 classes"):
        dataclasses.replace(bundle, architecture=three, labels=Labels(("a", "b", "c")))


def test_metrics_can_be_added_later(saved):
    before = (saved.folder / "model.safetensors").read_bytes()
    metrics = {"n": 3, "metrics": {"accuracy": {"estimate": 0.5, "ci_low": 0.1, "ci_high": 0.9, "method": "x", "n": 3}}}
    of_this_evaluation = {"data_notes": ["x of clinic.csv"], "data": "clinic", "date": "2026-11-30"}
    saved.with_metrics({**metrics, "failed": {"Jane Doe.png": "is not whole"}, **of_this_evaluation})
    assert Bundle.load(saved.folder).metrics == metrics
    assert (saved.folder / "model.safetensors").read_bytes() == before
    assert "0.100 to 0.900" in (saved.folder / "MODEL_CARD.md").read_text()


def test_metrics_that_are_not_numbers_are_refused(saved):
    with pytest.raises(BundleError, match="cannot be stored"):
        saved.with_metrics({"metrics": {"auroc": float("nan")}})
    assert Bundle.load(saved.folder) == saved


def test_an_unsaved_bundle_has_no_network(bundle):
    with pytest.raises(BundleError, match="no weights yet"):
        bundle.network()
