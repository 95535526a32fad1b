"""Responses of the service, compared with the predictions of the command line."""

from __future__ import annotations

import base64
import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import builders
import numpy as np
import pacs
import psutil
import pytest
from PIL import Image as Picture
from uploaded import archive, dicom, head, nifti, png

from reslink.imaging.dicom.series import ALTERNATING_ACQUISITIONS
from reslink.imaging.units import NO_HU
from reslink.inference.classifier import Classifier
from reslink.serving.dicom import classify
from reslink.serving.dicom.series import read_head_series
from reslink.serving.http.handlers import RequestHandlers
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.problems import Problem


def offline(bundle: Path, files: dict[str, bytes], folder: Path) -> list[dict[str, object]]:
    """Predictions of ``reslink predict`` for the same bytes."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    classifier = Classifier.load(str(bundle), device="cpu", backend="torch")
    return [prediction.as_dict() for prediction in classifier.predict([folder / name for name in files])]


def test_every_format_gets_the_prediction_of_the_command_line(service, bundles, tmp_path: Path) -> None:
    files = {"a.png": png(1), "b.jpg": png(2, kind="JPEG"), "c.dcm": dicom(3), "d.nii": nifti(3)}
    expected = offline(bundles[0], files, tmp_path)
    answer = service.post("/v1/predict", list(files.items()))
    assert answer.status_code == 200, answer.text
    entries = [one for file in answer.json()["files"] for one in file["answers"][0]["slices"]]
    assert [file["format"] for file in answer.json()["files"]] == ["PNG", "JPEG", "DICOM", "NIFTI"]
    assert len(entries) == len(expected) == 6
    for ours, theirs in zip(entries, expected, strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-5)
    assert len({round(one["probability"], 4) for one in entries}) > 3, "all images have the same prediction"
    assert "Research use only" in answer.json()["notice"]


def test_several_models_side_by_side(service, bundles, tmp_path: Path) -> None:
    files = {"a.png": png(5)}
    answer = service.post("/v1/predict", list(files.items()), {"model": ["three", "head"]}).json()
    by_model = {one["model"]: one["slices"][0] for one in answer["files"][0]["answers"]}
    assert list(by_model) == ["three", "head"]
    for bundle in bundles:
        [expected] = offline(bundle, files, tmp_path)
        assert by_model[bundle.name]["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_the_first_model_is_the_default(service) -> None:
    [file] = service.post("/v1/predict", [("a.png", png(5))]).json()["files"]
    assert [one["model"] for one in file["answers"]] == ["head"]


def test_one_bad_file_is_reported_and_the_others_are_classified(service) -> None:
    answer = service.post("/v1/predict", [("a.png", png(1)), ("b.png", png(2)[:200]), ("c.txt", b"hello"), ("d.png", png(3))])
    assert answer.status_code == 200
    files = answer.json()["files"]
    assert [file["problem"] and file["problem"]["status"] for file in files] == [None, 422, 415, None]
    assert "breaks off" in files[1]["problem"]["detail"] or "cannot be read" in files[1]["problem"]["detail"]
    assert files[2]["problem"]["type"] == "urn:reslink:problem:unsupported-format"
    assert files[0]["answers"][0]["slices"][0]["label"]
    assert files[3]["answers"][0]["slices"][0]["label"]


@pytest.mark.parametrize("packed", [False, True])
def test_the_slices_of_a_series_are_put_in_order(service, packed: bool) -> None:
    places = [30.0, 10.0, 20.0]
    files = {f"{i}.dcm": dicom(i, slot) for i, slot in enumerate(places)}
    sent = [("series.zip", archive(files | {"DICOMDIR": b"x", ".hidden": b"y"}))] if packed else list(files.items())
    answer = service.post("/v1/predict", sent).json()
    [series] = answer["series"]
    assert series["files"] == [1, 2, 0]
    assert [file["member"] for file in answer["files"]] == ([0, 1, 2] if packed else [None] * 3)
    assert [file["part"] for file in answer["files"]] == ([0, 0, 0] if packed else [0, 1, 2])


def test_slices_of_two_series_are_kept_apart(service) -> None:
    files = [(f"{i}.dcm", dicom(i, float(i), SeriesInstanceUID=f"1.2.{i % 2}")) for i in range(4)]
    answer = service.post("/v1/predict", files).json()
    assert [one["files"] for one in answer["series"]] == [[0, 2], [1, 3]]


def test_a_series_has_the_same_prediction_as_in_the_dicom_node(service, bundles, tmp_path: Path) -> None:
    """Both leave out a slice that shows little of the head. Positions are those in the series."""
    slices = pacs.series(1, slices=12)
    small, whole = np.zeros((128, 128), np.uint16), slices[0].pixel_array
    small[60:90, 50:80] = whole[60:90, 50:80]
    slices[0].PixelData = small.tobytes()
    folder = pacs.write(tmp_path, slices)
    expected = classify.classify_series(classify.load_model(str(bundles[0])), read_head_series(folder))
    assert expected.series.selected == tuple(range(1, 12))
    answer = service.post("/v1/predict", [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]).json()
    [series] = answer["series"]
    [prediction] = series["answers"]
    series_prediction = expected.prediction.as_dict()
    assert (prediction["model"], prediction["label"], prediction["score_class"], prediction["slices"]) == (
        "head",
        series_prediction["label"],
        "Tumor",
        11,
    )
    for word in ("score", "ci_low", "ci_high"):
        assert prediction[word] == pytest.approx(series_prediction[word], abs=1e-5), word
    assert prediction["used"] == [expected.series.selected[i] for i in series_prediction["used"]]
    assert (prediction["rule"], prediction["interval_scope"]) == (
        series_prediction["rule"],
        series_prediction["interval_scope"],
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"BodyPartExamined": "CHEST"}, "its header states another part of the body"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "mip, not a slice"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer, not a slice"),
        ({"SOPClassUID": builders.SC_CLASS}, "not a CT or MR image (Secondary Capture Image Storage)"),
        ({"Manufacturer": "reslink"}, "a result of this package"),
        ({"ImagePositionPatient": [0.0, 0.0, 5.0]}, "several of its slices have the same position"),
    ],
)
def test_a_series_that_the_dicom_node_refuses_has_no_series_prediction(service, changes, why: str) -> None:
    answer = service.post("/v1/predict", [(f"{i}.dcm", dicom(i, float(i), **changes)) for i in range(3)]).json()
    assert answer["series"] == [{"files": [0, 1, 2], "answers": [], "notes": [why]}]
    for file in answer["files"]:
        [entry] = file["answers"][0]["slices"]
        if "ImagePositionPatient" in changes:
            assert entry["label"]
        else:
            assert (entry["label"], entry["abstain"], entry["reasons"], entry["error"]) == (None, True, [why], None)


def test_acquisitions_at_alternating_positions_are_answered_with_a_note(service) -> None:
    files = [(f"{i}.dcm", dicom(i, 5.0 * i, AcquisitionNumber=1 + i % 2)) for i in range(4)]
    [series] = service.post("/v1/predict", files).json()["series"]
    assert (len(series["answers"]) > 0, series["notes"]) == (True, [ALTERNATING_ACQUISITIONS])


def test_maps_of_an_image_that_is_no_slice_of_a_head_are_refused_with_the_reason(service) -> None:
    answer = service.post("/v1/explain", [("0.dcm", dicom(0, 0.0, BodyPartExamined="FOOT"))])
    [explanation] = answer.json()["files"][0]["explanations"]
    assert answer.status_code == 200
    assert (explanation["label"], explanation["maps"], explanation["target"]) == (None, [], None)
    assert explanation["reasons"] == ["its header states another part of the body"]


def test_the_field_unit_states_the_unit(service) -> None:
    content = io.BytesIO()
    np.save(content, np.where(head(3) > 20, 35.0, -1000.0))
    for unit, stated in (("", ("HU", "CT")), ("mr", ("MR", "MR")), ("hu", ("HU", "CT"))):
        answer = service.post("/v1/predict", [("a.npy", content.getvalue())], {"unit": unit}).json()
        assert (answer["files"][0]["unit"], answer["files"][0]["modality"]) == stated
    wrong = service.post("/v1/predict", [("a.npy", content.getvalue())], {"unit": "kelvin"})
    assert wrong.status_code == 400
    assert "The units are HU, MR and gray" in wrong.json()["detail"]


def test_a_series_that_no_model_is_for_has_the_reason(service) -> None:
    files = [(f"{i}.dcm", dicom(i, float(i), RescaleType="Z_EFF")) for i in range(2)]
    answer = service.post("/v1/predict", files).json()
    reason = "its header states that its values are Z_EFF, not HU"
    assert answer["series"] == [{"files": [0, 1], "answers": [], "notes": [reason]}]
    assert [file["answers"][0]["slices"][0]["reasons"] for file in answer["files"]] == [[reason]] * 2


def test_slices_of_two_patients_are_two_series(service) -> None:
    """Some programs write the same Series Instance UID into the files of every patient."""
    files = [(f"{i}.dcm", dicom(i, float(i), PatientID=f"P{i % 2}")) for i in range(4)]
    answer = service.post("/v1/predict", files).json()
    assert [series["files"] for series in answer["series"]] == [[0, 2], [1, 3]]


COARSE, FINE = {"PixelSpacing": [0.9, 0.9]}, {"PixelSpacing": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ((FINE, COARSE, FINE), "pixel spacings"),
        (({"PixelSpacing": None}, FINE, COARSE), "pixel spacings"),
        (({}, {"RescaleSlope": None, "RescaleIntercept": None}, {}), "kinds of values"),
        (({}, {"columns": 70}, {}), "sizes"),
    ],
)
def test_inconsistent_slices_have_no_series_prediction(service, own, why: str) -> None:
    files = [(f"{i}.dcm", dicom(i, float(i), **changes)) for i, changes in enumerate(own)]
    answer = service.post("/v1/predict", files).json()
    assert answer["series"] == [{"files": [0, 1, 2], "answers": [], "notes": [f"its slices have different {why}"]}]
    for file in answer["files"]:
        [prediction] = file["answers"][0]["slices"]
        no_hu = why == "kinds of values" and file["file"] == "1.dcm"
        assert prediction["label"] is None if no_hu else prediction["label"]
        assert (prediction["reasons"] == [NO_HU]) is no_hu


def test_a_localizer_among_slices_is_ignored(service) -> None:
    files = [(f"{i}.dcm", dicom(i, float(i), ImageType=["LOCALIZER"] if i == 1 else None)) for i in range(4)]
    [series] = service.post("/v1/predict", files).json()["series"]
    assert (series["files"], series["answers"][0]["slices"], series["notes"]) == ([0, 2, 3], 3, [])


@pytest.mark.parametrize(("part", "answered"), [("HEAD", True), ("CHEST", False)])
def test_the_header_of_a_multi_frame_file_is_checked(service, part: str, answered: bool) -> None:
    frames = np.stack([head(i).astype(np.uint16) for i in range(3)])
    content = builders.written(builders.dataset(frames, SOPClassUID=builders.ENHANCED_CT, BodyPartExamined=part))
    [series] = service.post("/v1/predict", [("a.dcm", content)]).json()["series"]
    assert (bool(series["answers"]), bool(series["notes"])) == (answered, not answered)


def test_one_slice_of_a_volume_is_no_series(service) -> None:
    assert service.post("/v1/predict", [("a.nii", nifti(12))]).json()["series"][0]["answers"][0]["slices"] == 12
    assert service.post("/v1/predict", [("a.nii", nifti(12))], {"slice": "2"}).json()["series"][0]["answers"] == []


def test_slices_of_another_direction_are_not_part_of_a_series(service) -> None:
    across = {"ImageOrientationPatient": [0.0, 1, 0, 0, 0, -1]}
    files = [(f"{i}.dcm", dicom(i, float(i), **(across if i == 1 else {}))) for i in range(3)]
    assert [one["files"] for one in service.post("/v1/predict", files).json()["series"]] == [[0, 2]]


def test_a_single_slice_can_be_requested(service) -> None:
    [file] = service.post("/v1/predict", [("a.nii", nifti(3))], {"slice": "2"}).json()["files"]
    whole = service.post("/v1/predict", [("a.nii", nifti(3))]).json()["files"][0]["answers"][0]["slices"]
    [one] = file["answers"][0]["slices"]
    assert one["slice"] == 2
    assert one["probability"] == pytest.approx(whole[2]["probability"], abs=1e-6)
    refused = service.post("/v1/predict", [("a.nii", nifti(3))], {"slice": "3"})
    assert refused.status_code == 422
    assert "Request a slice from 0 to 2" in refused.json()["detail"]


def test_explanations_are_the_outputs_of_the_onnx_model(service, bundles) -> None:
    image = png(4)
    answer = service.post("/v1/explain", [("a.png", image)]).json()["files"][0]["explanations"][0]
    classifier = Classifier.load(str(bundles[0]), device="cpu", backend="onnxruntime")
    from reslink.imaging.reading import read_image

    pixels = classifier.bundle.preprocess.pixels(read_image(image))[None]
    first, final, cam = classifier.backend.run(pixels, ["first_attention", "final_attention", "cam"])  # type: ignore[attr-defined]
    maps = {one["name"]: one for one in answer["maps"]}
    for name, heat in (("first_attention", first[0, 0]), ("final_attention", final[0, 0]), ("class_activation", cam[0, 1])):
        assert maps[name]["low"] == pytest.approx(float(heat.min()), abs=1e-5)
        assert maps[name]["high"] == pytest.approx(float(heat.max()), abs=1e-5)
    assert answer["target"] == "Tumor"
    strength = np.asarray(Picture.open(io.BytesIO(base64.b64decode(maps["class_activation"]["strength"]))))
    assert strength.shape == (96, 96) == tuple(answer["shape"])
    render_map = np.asarray(Picture.open(io.BytesIO(base64.b64decode(maps["class_activation"]["overlay"]))))
    assert render_map.shape == (96, 96, 3)
    assert (render_map[strength == 0] == render_map[strength == 0][:, :1]).all(), "without evidence, the image stays gray"


def test_class_activation_explains_the_requested_class(service) -> None:
    files = [("a.png", png(4))]
    lows = {
        name: service.post("/v1/explain", files, {"target": name}).json()["files"][0]["explanations"][0]["maps"][2]["low"]
        for name in ("Healthy", "Tumor")
    }
    assert lows["Healthy"] != lows["Tumor"]
    refused = service.post("/v1/explain", files, {"target": "Tumour"})
    assert refused.status_code == 400
    assert "Did you mean 'Tumor'" in refused.json()["detail"]


def test_one_member_of_an_archive_can_be_explained(service) -> None:
    packed = [("s.zip", archive({f"{i}.dcm": dicom(i, float(i)) for i in range(3)}))]
    answer = service.post("/v1/explain", packed, {"member": "1"}).json()
    assert [file["file"] for file in answer["files"]] == ["s.zip/1.dcm"]
    assert service.post("/v1/explain", packed, {"member": "9"}).status_code == 400


def test_a_view_contains_the_values_of_the_file(service) -> None:
    [file] = service.post("/v1/view", [("a.dcm", dicom(3))]).json()["files"]
    values = np.frombuffer(zlib.decompress(base64.b64decode(file["data"])), "<i2").reshape(file["shape"])
    assert (file["unit"], file["scale"], file["offset"], file["step"]) == ("HU", 1.0, 0.0, 1)
    from reslink.imaging.reading import read_image

    np.testing.assert_array_equal(values[0], read_image(dicom(3)).pixels)
    assert file["window"] == [40.0, 80.0]
    assert "bone" in file["windows"]


def test_predictions_are_not_mixed_up_when_requests_share_a_batch(service, bundles, tmp_path: Path) -> None:
    images = {f"{i}.png": png(i) for i in range(24)}
    expected = {Path(str(one["path"])).name: one["probabilities"] for one in offline(bundles[0], images, tmp_path)}

    def ask(name: str) -> tuple[str, dict[str, float]]:
        [file] = service.post("/v1/predict", [(name, images[name])]).json()["files"]
        return name, file["answers"][0]["slices"][0]["probabilities"]

    with ThreadPoolExecutor(12) as pool:
        for name, probabilities in pool.map(ask, list(images) * 3):
            assert probabilities == pytest.approx(expected[name], abs=1e-5)
    with service.client() as client:
        text = client.get("/metrics").text
    sizes = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith("reslink_batch_slices")}
    count = sum(n for name, n in sizes.items() if "_count" in name and 'model="head"' in name)
    total = sum(n for name, n in sizes.items() if "_sum" in name and 'model="head"' in name)
    assert total > count, "no two slices shared a batch"


def test_models_health_openapi_and_metrics(service) -> None:
    with service.client() as client:
        models = client.get("/v1/models").json()["models"]
        assert [(one["name"], one["classes"], one["positive"]) for one in models] == [
            ("head", ["Healthy", "Tumor"], "Tumor"),
            ("three", ["glioma", "none", "other"], None),
        ]
        assert list(models[0]["maps"]) == ["final_attention", "class_activation", "first_attention"]
        assert client.get("/health/live").json() == {"status": "live"}
        assert client.get("/health/ready").json() == {"status": "ready"}
        document = client.get("/openapi.json").json()
        assert set(document["paths"]) >= {"/v1/predict", "/v1/explain", "/v1/models", "/health/live", "/metrics"}
        body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert body["schema"]["required"] == ["files"]
        assert body["examples"]
        assert {"rule", "score", "ci_low", "ci_high", "interval", "interval_scope", "used"} <= set(
            document["components"]["schemas"]["SeriesAnswer"]["properties"]
        )
        metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'reslink_requests_total{route="/v1/models",status="200"' in metrics.text.replace(" ", "")


def test_the_service_loads_no_torch(service) -> None:
    service.post("/v1/explain", [("a.png", png(1))])
    process = psutil.Process(service.process.pid)
    for one in [process, *process.children(recursive=True)]:
        assert "libtorch" not in Path(f"/proc/{one.pid}/maps").read_text()


def test_the_service_opens_no_outgoing_connection(service) -> None:
    service.post("/v1/predict", [("a.png", png(1))])
    process = psutil.Process(service.process.pid)
    for one in [process, *process.children(recursive=True)]:
        opened = [Path(f"/proc/{one.pid}/fd/{handle.name}").readlink() for handle in Path(f"/proc/{one.pid}/fd").iterdir()]
        assert not [path for path in opened if "onnxruntime" in str(path)]
        assert not [line for line in one.net_connections() if line.raddr and line.raddr.ip != "127.0.0.1"]


def test_several_workers_share_a_port(serving) -> None:
    with serving(workers=2, decode_workers=1) as running, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: running.post("/v1/predict", [("a.png", png(i))]).status_code, range(16)))
        assert answers == [200] * 16


def test_memory_cannot_be_held_after_the_end_of_a_request() -> None:
    """A thread that still unpacks after a timeout must not hold memory forever."""
    handlers = RequestHandlers([], None, Limits(), Metrics())  # type: ignore[arg-type]
    with handlers.memory() as hold:
        hold(1000)
    with pytest.raises(Problem):
        hold(1000)
    assert handlers.held_bytes == 0


def test_the_test_images_differ() -> None:
    assert (head(1) != head(2)).any()
