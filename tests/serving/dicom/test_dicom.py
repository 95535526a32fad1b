"""Orthanc and the DICOM node: results arrive once, also when the node is killed."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pacs
import pytest
from dicomweb_client import DICOMwebClient
from pydicom import dcmread

from reslink.serving.dicom.series import series_key

SERIES = 10

pytestmark = pytest.mark.timeout(1200)  # a machine that others use may be twenty times slower


@pytest.mark.slow
def test_ten_series_and_two_kills_give_ten_results_of_each_kind(need_orthanc: None, bundle: Path, tmp_path: Path) -> None:
    port = pacs.free_port()
    sent = [pacs.series(number, tumor=number % 2 == 0) for number in range(SERIES)]
    with (
        pacs.Orthanc(tmp_path / "orthanc", port, **pacs.ROUTE) as archive,
        pacs.Listener(bundle, tmp_path / "queue", f"ORTHANC@127.0.0.1:{archive.dicom}", port=port) as node,
    ):
        for one in sent:
            archive.add(one)
        for done, pause in ((1, 0.3), (4, 0.05)):  # while it works on one of the next
            pacs.wait_for(lambda done=done: archive.count() >= 3 * done, what=f"the result of {done} series")
            time.sleep(pause)
            node.kill()
            node.start().wait()
        pacs.wait_for(lambda: archive.count() >= 3 * SERIES, what="the result of every series")
        time.sleep(3)  # a duplicate would arrive now, and so would a result for a result that is routed stored
        studies = [str(one[0].StudyInstanceUID) for one in sent]
        assert archive.counts() == {(study, kind): 1 for study in studies for kind in pacs.CLASSES.values()}
        _check_results(archive, tmp_path, studies)
        assert node.stop() == 0
    _check_no_patient_data(node.log_text())
    assert sorted(path.stem for path in (tmp_path / "queue" / "done").iterdir()) == sorted(
        series_key(str(one[0].SeriesInstanceUID)) for one in sent
    )
    for state in ("incoming", "receiving", "working", "sending", "failed"):
        assert list((tmp_path / "queue" / state).iterdir()) == []


def _check_results(archive: pacs.Orthanc, folder: Path, studies: list[str]) -> None:
    """Finds, retrieves and validates each kind of result by DICOMweb."""
    client = DICOMwebClient(archive.web)
    for modality, kinds in (("SR", 1), ("OT", 2)):
        assert len(client.search_for_series(studies[0], search_filters={"Modality": modality})) == kinds
    for number, result in enumerate(archive.results()):
        instance = client.retrieve_instance(
            str(result.StudyInstanceUID), str(result.SeriesInstanceUID), str(result.SOPInstanceUID)
        )
        stream = io.BytesIO()
        instance.save_as(stream)
        path = folder / f"{number}.dcm"
        path.write_bytes(stream.getvalue())
        assert pacs.errors_of(path) == []
        assert str(dcmread(path).PatientID).startswith("SECRET")
    ids = {str(result.PatientID) for result in archive.results()}
    assert ids == {f"SECRET{number:04d}" for number in range(SERIES)}


def _check_no_patient_data(log: str) -> None:
    assert "series " in log
    for word in ("SECRET", "2.25.", "P0001", "PHANTOM"):
        assert word not in log


def test_returned_results_are_discarded_and_a_second_run_replaces_them(
    need_orthanc: None, bundle: Path, tmp_path: Path
) -> None:
    """A route without a filter returns results to the node; a series sent again gives the same objects."""
    with (
        pacs.Orthanc(tmp_path / "orthanc", OverwriteInstances=True) as archive,
        pacs.Listener(bundle, tmp_path / "queue", f"ORTHANC@127.0.0.1:{archive.dicom}") as node,
    ):
        assert pacs.store(node.port, pacs.series(1)) == [0] * 10
        pacs.wait_for(lambda: archive.count() == 3, what="the results")
        first = {str(one.SOPInstanceUID): one.InstanceCreationTime for one in archive.results()}
        results = [dcmread(io.BytesIO(archive.bytes(f"/instances/{one}/file"))) for one in archive.ask("/instances")]
        assert {pacs.CLASSES[one.SOPClassUID] for one in results} == set(pacs.CLASSES.values())
        assert pacs.store(node.port, results) == [0, 0, 0]
        disguised = pacs.series(2, Manufacturer="reslink")
        assert pacs.store(node.port, disguised) == [0] * 10
        assert node.log_text().count("discarded: ") == 13
        assert len(list((tmp_path / "queue" / "receiving").iterdir())) == 0
        assert pacs.store(node.port, list(reversed(pacs.series(1)))) == [0] * 10
        pacs.wait_for(lambda: node.log_text().count("results sent") == 2, what="the second results")
        second = {str(one.SOPInstanceUID): one.InstanceCreationTime for one in archive.results()}
        assert node.stop() == 0
    assert first.keys() == second.keys()
    assert all(first[uid] != second[uid] for uid in first), "nothing was replaced"


def test_the_dicomweb_client_classifies_new_series(need_orthanc: None, bundle: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from reslink.cli.main import app

    with pacs.Orthanc(tmp_path / "orthanc") as archive:
        archive.add(pacs.series(1))
        archive.add(pacs.series(2, BodyPartExamined="CHEST"))
        archive.add(pacs.series(3, sequence="T1"))
        words = ["dicom", "watch", str(bundle), "--url", archive.web, "--queue", str(tmp_path / "queue"), "--days", "0"]
        for _ in range(2):  # the second run finds nothing new
            done = CliRunner().invoke(app, [*words, "--settle", "0", "--once"])
            assert done.exit_code == 0, done.stderr
            assert archive.counts() == {
                (str(pacs.series(number)[0].StudyInstanceUID), kind): 1 for number in (1, 3) for kind in pacs.CLASSES.values()
            }
            assert "another part of the body" in done.stderr or _ == 1
            assert "SECRET" not in done.stderr


def test_a_stored_map_has_its_original_values(need_orthanc: None, bundle: Path, tmp_path: Path) -> None:
    """The map in the archive has the values of the ONNX model, with pixel grid and position of the source."""
    from reslink.serving.dicom.classify import classify_series, load_model
    from reslink.serving.dicom.results import create_results
    from reslink.serving.dicom.series import read_head_series

    folder = pacs.write(tmp_path / "in", pacs.series(1))
    result = classify_series(load_model(str(bundle)), read_head_series(folder))
    with pacs.Orthanc(tmp_path / "orthanc") as archive:
        parametric = next(one for one in create_results(result) if one.kind == "map")
        archive.ask("/instances", parametric.content)
        [instance] = archive.ask("/instances")
        stored = dcmread(io.BytesIO(archive.bytes(f"/instances/{instance}/file")))
    mapping = stored.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    values = stored.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
    assert result.maps is not None
    assert result.field_of_view is not None
    frames = {
        tuple(float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient): values[i]
        for i, frame in enumerate(stored.PerFrameFunctionalGroupsSequence)
    }
    assert len(frames) == len(result.series.selected)
    for i, index in enumerate(result.series.selected):
        frame = frames[tuple(float(v) for v in result.series.headers[index].ImagePositionPatient)]
        assert np.abs(frame - result.maps[i])[result.field_of_view[i]].max() <= mapping.RealWorldValueSlope
