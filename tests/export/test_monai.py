"""The MONAI bundle: read back, run by MONAI's own workflow, and described."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.export import monai, parity
from reslink.imaging.reading import read_image
from reslink.labels import Labels


def test_it_is_read_back_and_described(check_export: Callable[[str, set[str]], Path]) -> None:
    pytest.importorskip("monai.bundle", reason="monai is not installed")
    check_export("monai", {"configs", "models", "docs"})


@pytest.mark.filterwarnings("ignore:parsing config_file")  # MONAI says so of every configuration
def test_the_workflow_of_monai_runs(saved: Bundle, ring_heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles = pytest.importorskip("monai.bundle", reason="monai is not installed")
    pytest.importorskip("ignite", reason="pytorch-ignite is not installed")
    out = tmp_path / "out"
    (out / "images").mkdir(parents=True)
    monai.write(saved, out)
    paths = sorted(ring_heads.glob("*.png"))[:3]
    for path in paths:
        shutil.copy(path, out / "images")
    monkeypatch.chdir(out)
    flow = bundles.create_workflow(config_file=monai.INFERENCE, meta_file=monai.METADATA, workflow_type="inference")
    assert flow.check_properties() == []
    flow.run()
    found = [row["pred_probabilities"] for row in flow.evaluator.state.output]
    wanted = parity.reference_outputs(saved, [read_image(path) for path in paths])["probabilities"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("outputs", "channels"), [(1, {"0": "Tumor"}), (2, {"0": "Healthy", "1": "Tumor"})])
def test_the_metadata_of_monai_name_every_channel_once(make_saved: object, outputs: int, channels: dict[str, str]) -> None:
    bundle = make_saved(num_classes=outputs)  # type: ignore[operator]
    pred = monai._metadata(replace(bundle, labels=Labels(("Healthy", "Tumor"))))["network_data_format"]["outputs"]["pred"]
    assert (pred["num_channels"], pred["channel_def"]) == (outputs, channels)
