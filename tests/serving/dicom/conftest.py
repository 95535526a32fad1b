"""The predictions for a series, and the DICOM results made from them."""

from __future__ import annotations

import pacs
import pytest

from reslink.serving.dicom.classify import classify_series, load_model
from reslink.serving.dicom.results import create_results
from reslink.serving.dicom.series import read_head_series


@pytest.fixture(scope="session", params=["CT", "T1"])
def series_result(request, bundle, tmp_path_factory):
    folder = pacs.write(tmp_path_factory.mktemp("series"), pacs.series(1, sequence=request.param))
    return classify_series(load_model(str(bundle)), read_head_series(folder))


@pytest.fixture(scope="session")
def objects(series_result):
    return {result.kind: result for result in create_results(series_result)}
