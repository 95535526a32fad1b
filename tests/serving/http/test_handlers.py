"""Memory and slice limits of one request with fake workers, and the answers of series models, without a service."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from uploaded import dicom, nifti, png

import reslink
from reslink.bundles.scope import Scope
from reslink.imaging.image import Stated
from reslink.labels import Labels
from reslink.serving.http import models, schemas, worker
from reslink.serving.http.handlers import RequestHandlers
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.problems import Problem
from reslink.serving.http.uploads.form import Form, Upload
from reslink.serving.http.worker import PreparedFile, PrepareRequest


class Volumes:
    """A worker pool in which every file is a volume with the given number of slices."""

    processes = 1

    def __init__(self, slices: int) -> None:
        self.slices, self.prepared = slices, 0

    async def prepare(self, _data: bytes, _request: PrepareRequest) -> PreparedFile:
        self.prepared += 1
        await asyncio.sleep(0)
        return PreparedFile(self.slices, "HU", "CT")


def test_prepared_slices_count_as_memory_and_sent_files_no_longer() -> None:
    class Slices(Volumes):
        async def prepare(self, _data: bytes, _request: PrepareRequest) -> PreparedFile:
            return PreparedFile(2, "HU", "CT", {0: [np.zeros((1, 8, 8), np.uint8), "no head"]})

    handlers = RequestHandlers([], Slices(2), Limits(held_bytes=1000), Metrics())  # type: ignore[arg-type]
    with handlers.memory() as hold:
        hold(900)
        form = Form([Upload("a.nii", b"x" * 900)], hold=hold)
        asyncio.run(handlers._prepare(form, PrepareRequest((0,))))
        assert handlers.held_bytes == 64
        form.files = [Upload(f"{i}.nii", b"") for i in range(15)]
        with pytest.raises(Problem, match="service is busy"):
            asyncio.run(handlers._prepare(form, PrepareRequest((0,))))
    assert handlers.held_bytes == 0


def test_many_volumes_are_refused_before_all_of_them_are_read() -> None:
    pool = Volumes(60)
    handlers = RequestHandlers([], pool, Limits(slices=100), Metrics())  # type: ignore[arg-type]
    with pytest.raises(Problem, match="too large") as caught:
        asyncio.run(handlers.view(Form([Upload(f"{i}.nii.gz", b"x") for i in range(50)])))
    assert caught.value.status == 413
    assert pool.prepared <= 3, "one file beyond the limit, and one already started"
    assert "120 slices" in caught.value.detail
    assert "100 slices" in caught.value.detail


class HerePool:
    """A worker pool that prepares files in this process."""

    processes = 1

    async def prepare(self, data: bytes, request: PrepareRequest) -> PreparedFile:
        return worker.prepare(data, request)


Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask(series_bundle: Path, bundles: list[Path]) -> Iterator[Ask]:
    """Returns a function that sends files to a route of handlers with a series model, ``whole``, and one of slices."""
    served, preprocesses = models.load([str(series_bundle), str(bundles[0])], Limits())
    before = worker._preprocesses[:]
    worker._preprocesses[:] = [worker.Preprocess.model_validate_json(text) for text in preprocesses]
    handlers = RequestHandlers(served, HerePool(), Limits(), Metrics())  # type: ignore[arg-type]

    def send(files: dict[str, bytes], route: str = "predict", **fields: object) -> dict[str, Any]:
        texts = {name: value if isinstance(value, list) else [str(value)] for name, value in fields.items()}
        form = Form([Upload(name, content) for name, content in files.items()], texts)
        return dict(asyncio.run(getattr(handlers, route)(form)))

    yield send
    worker._preprocesses[:] = before
    for model in served:
        model.batcher.close()


@pytest.mark.parametrize(
    ("route", "sequence", "found"), [("predict", "t1ce", "T1C+"), ("explain", "T2w", "T2"), ("predict", "", None)]
)
def test_the_field_sequence_reaches_the_scope_of_the_model(
    ask, bundles, monkeypatch, route: str, sequence: str, found: str
) -> None:
    seen = []

    def refusals(_scope: Scope, stated: list[Stated], *_: object) -> list[str]:
        seen.extend(item.sequence for item in stated)
        return ["not for this sequence"] * len(stated)

    monkeypatch.setattr(Scope, "refusals", refusals)
    answer = ask({"a.png": png(1)}, route, sequence=sequence, model=bundles[0].name)
    assert seen == [found]
    assert "not for this sequence" in str(answer)


PLACES = (30.0, 10.0, 20.0, 0.0)
SLICES = {f"{i}.dcm": dicom(i, place) for i, place in enumerate(PLACES)}


def test_the_files_of_a_series_get_the_answer_of_predict(ask: Ask, series_bundle: Path, tmp_path: Path) -> None:
    for name, content in SLICES.items():
        (tmp_path / name).write_bytes(content)
    [expected] = reslink.predict(series_bundle, tmp_path)
    response = ask(SLICES)
    [series] = response["series"]
    assert series["files"] == sorted(range(4), key=lambda i: PLACES[i])
    assert [file["answers"] for file in response["files"]] == [[]] * 4
    [answer] = series["answers"]
    schemas.SeriesAnswer.model_validate(answer, extra="forbid")
    assert (answer["model"], answer["label"], answer["certainty"]) == ("whole", expected.label, expected.certainty)
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    weights = {one["slice"]: one["weight"] for one in answer["attention"]}
    assert weights == pytest.approx(expected.result.attention, abs=1e-4)
    assert max(weights.values()) > 1.02 * min(weights.values())
    (tmp_path / "a.nii").write_bytes(nifti(3))
    [whole] = reslink.predict(series_bundle, tmp_path / "a.nii")
    [volume] = ask({"a.nii": nifti(3)})["series"]
    weights = {one["slice"]: one["weight"] for one in volume["answers"][0]["attention"]}
    assert weights == pytest.approx(whole.result.attention, abs=1e-4)


def test_a_single_image_is_refused_by_a_model_of_series(ask: Ask) -> None:
    told = "not part of a series of slices. whole answers once for all slices of a series. Send a volume, or all DICOM files"
    for name, content in {"a.png": png(1), "a.dcm": dicom(1)}.items():
        with pytest.raises(Problem) as caught:
            ask({name: content})
        assert (caught.value.status, caught.value.name) == (422, "needs-series")
        assert told in caught.value.detail
    response = ask({"a.png": png(1), **SLICES})
    assert response["files"][0]["problem"]["type"] == "urn:reslink:problem:needs-series"
    assert len(response["series"][0]["answers"]) == 1
    with pytest.raises(Problem, match="A series model answers for no single slice") as caught:
        ask({"a.nii": nifti(3)}, slice=1)
    assert (caught.value.status, caught.value.name) == (400, "bad-field")
    assert "Slice 1 was requested from whole" in caught.value.detail
    assert "Omit the field slice" in caught.value.detail


def test_a_model_of_slices_answers_beside_a_model_of_series(ask: Ask) -> None:
    response = ask({"a.png": png(1), **SLICES}, model=["whole", "head"])
    image = response["files"][0]
    assert [answer["model"] for answer in image["answers"]] == ["head"]
    assert image["notes"][-1] == "whole answers for series, and this image is not part of one"
    assert {answer["model"]: "attention" in answer for answer in response["series"][0]["answers"]} == {
        "head": False,
        "whole": True,
    }


def test_why_a_model_of_series_has_no_answer_is_noted(ask: Ask) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 64, 64), np.uint8))
    [series] = ask({"empty.npy": buffer.getvalue()})["series"]
    assert series["answers"] == []
    assert series["notes"] == ["no answer for the series of 2 slices: no slice shows a head"]


def test_maps_of_a_slice_need_no_answer_for_it(ask: Ask) -> None:
    [file] = ask({"a.dcm": dicom(1)}, "explain", target="Healthy")["files"]
    [shown] = file["explanations"]
    assert (shown["target"], shown["label"], shown["error"]) == ("Healthy", None, None)
    assert "class_activation" in {one["name"] for one in shown["maps"]}
    schemas.Explanation.model_validate(shown, extra="forbid")


def test_maps_of_a_model_of_series_with_three_classes_need_a_target(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Labels, "binary", False)
    with pytest.raises(Problem, match="needs a class to explain") as caught:
        ask({"a.dcm": dicom(1)}, "explain")
    assert (caught.value.status, caught.value.name) == (400, "needs-target")
    assert caught.value.detail == (
        "No class to explain was given, and whole has no answer for a single slice. The classes of whole are Healthy, Tumor. "
        "Send one of them in the field target."
    )
    with pytest.raises(Problem, match="The class does not exist") as caught:
        ask({"a.dcm": dicom(1)}, "explain", target="Tumour")
    assert (caught.value.status, caught.value.name) == (400, "no-such-class")
