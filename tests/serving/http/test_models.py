"""Loaded models: names, description, and the picture of a map."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.bundles.bundle import Bundle
from reslink.errors import BundleError, UsageError
from reslink.imaging.preprocess import Placement
from reslink.serving.http import models
from reslink.serving.http.limits import Limits
from reslink.serving.http.models import ServedModel
from reslink.serving.http.worker import DisplaySlice


@pytest.fixture
def served(bundles: list[Path]) -> Iterator[tuple[list[ServedModel], list[str]]]:
    loaded, preprocesses = models.load([str(folder) for folder in (*bundles, bundles[0])], Limits())
    yield loaded, preprocesses
    for model in loaded:
        model.batcher.close()


def test_models_share_their_preprocessing(served: tuple[list[ServedModel], list[str]], bundles: list[Path]) -> None:
    loaded, preprocesses = served
    assert [model.name for model in loaded] == ["head", "three", "head-2"]
    assert preprocesses == [Bundle.load(bundles[0]).preprocess.model_dump_json()]
    assert [model.preprocess_index for model in loaded] == [0, 0, 0]


def test_the_description_of_a_model(served: tuple[list[ServedModel], list[str]], bundles: list[Path]) -> None:
    head, three, _ = (model.description() for model in served[0])
    assert (head["classes"], head["positive"], three["positive"]) == (["Healthy", "Tumor"], "Tumor", None)
    assert head["weights_sha256"] == Bundle.load(bundles[0]).weights_sha256
    assert (head["input"], head["backend"], head["license"]) == ([3, 64, 64], "onnxruntime", "not stated")
    assert (head["decision"]["threshold"], head["decision"]["calibrated"], head["decision"]["ood_detector"]) == (
        0.5,
        False,
        False,
    )


def test_answers_and_description_say_how_the_model_did_on_other_hospitals(
    known_outside: Path, served: tuple[list[ServedModel], list[str]]
) -> None:
    [known], _ = models.load([str(known_outside)], Limits())
    known.batcher.close()
    said = "On images of other hospitals, its accuracy as shipped was 0.52 (n 654, without 9 refused)"
    assert said in known.scope
    assert known.description()["usage_notes"][-1].startswith(said)
    head = served[0][0]
    assert head.scope.endswith("No evaluation on images of other hospitals is recorded.")
    assert not any("other hospitals" in note for note in head.description()["usage_notes"])


def test_an_unknown_class_cannot_be_explained(served: tuple[list[ServedModel], list[str]]) -> None:
    with pytest.raises(UsageError, match=r"'Tumour' does not exist.*classes of head are Healthy, Tumor.*Did you mean 'Tumor'"):
        asyncio.run(served[0][0].explain(np.zeros((3, 64, 64), np.uint8), "Tumour"))


def test_a_bundle_without_an_onnx_model_is_refused(finished_run: Path) -> None:
    with pytest.raises(BundleError, match=r"has no model\.onnx.*reslink train writes"):
        models.load_onnx_bundle(str(finished_run / "bundle"))


def test_names_are_unique() -> None:
    assert models.model_names(["a/run/bundle", "b/run", "ct", "run/"]) == ["run", "run-2", "ct", "run-3"]


def test_the_strength_of_a_map_has_the_size_of_the_image() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 1
    visible = np.ones((32, 48), bool)
    visible[:, 40:] = False
    display_slice = DisplaySlice(np.full((32, 48), 90, np.uint8), Placement((32, 48), 0, 0, 32, 48, 64, None), visible)
    entry = models.render_map(display_slice, "class_activation", heat, "Tumor")
    pictures = {name: np.asarray(Picture.open(io.BytesIO(base64.b64decode(entry[name])))) for name in ("strength", "overlay")}
    assert (pictures["strength"].shape, pictures["overlay"].shape) == ((32, 48), (32, 48, 3))
    assert pictures["strength"].max() == 255
    assert pictures["strength"][:, 36:40].any(), "the map reaches the border of what the network sees"
    assert not pictures["strength"][:, 40:].any()
    assert (pictures["overlay"][:, 40:] == 90).all()
    assert pictures["strength"][tuple(entry["peak"])] == 255
    assert (entry["name"], entry["high"], entry["flat"]) == ("class_activation", 1.0, False)
