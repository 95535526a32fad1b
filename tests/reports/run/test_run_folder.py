"""The files of a run, as the report reads them."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from reslink.errors import InputError
from reslink.reports.run import run_folder
from reslink.reports.run.run_folder import data_uri, read_run


def test_the_predictions_become_arrays(make_run):
    run = make_run(n=20)
    predictions = read_run(run).predictions
    assert predictions.names == ("Healthy", "Tumor")
    assert (predictions.y_true.shape, predictions.y_prob.shape, predictions.y_pred.shape) == ((20,), (20, 2), (20,))
    np.testing.assert_array_equal(predictions.y_prob.argmax(axis=1), predictions.y_pred)
    (run / "bundle" / "bundle.json").write_text(json.dumps({"labels": ["Tumor", "Healthy"]}))
    np.testing.assert_array_equal(read_run(run).predictions.y_true, 1 - predictions.y_true)


def test_the_last_row_of_an_epoch_and_the_first_of_a_finding_count(make_run):
    run = make_run()
    rows = [{"kind": "epoch", "epoch": 1, "loss": 9}, {"kind": "epoch", "epoch": 1, "loss": 1}, {"kind": "step"}]
    findings = [{"kind": "finding", "code": "a", "epoch": epoch} for epoch in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *findings]))
    contents = read_run(run)
    assert contents.epochs == rows[1:2]
    assert contents.findings == findings[:1]


def test_without_metrics_the_epochs_come_from_results_csv(make_run):
    run = make_run()
    (run / "metrics.jsonl").unlink()
    (run / "results.csv").write_text("epoch,val_loss,note\n1,0.5,\n2,0.25,x\n")
    assert read_run(run).epochs == [{"epoch": 1.0, "val_loss": 0.5}, {"epoch": 2.0, "val_loss": 0.25}]
    assert read_run(run).findings is None


def test_an_empty_folder_has_no_contents(tmp_path):
    contents = read_run(tmp_path)
    assert contents == run_folder.RunFolder(tmp_path.name)


def test_large_pictures_are_skipped(make_run, monkeypatch):
    run = make_run()
    assert list(read_run(run).pictures) == ["gallery_01.png", "gallery_02.png"]
    monkeypatch.setattr(run_folder, "_MAX_PICTURE_BYTES", 10)
    assert read_run(run).pictures == {}


def test_a_data_uri_holds_the_bytes():
    prefix, content = data_uri(b"\x89PNG").split(",")
    assert (prefix, base64.b64decode(content)) == ("data:image/png;base64", b"\x89PNG")


@pytest.mark.parametrize("broken", ["evaluation.json", "predictions.csv", "metrics.jsonl", "config.yaml"])
def test_an_invalid_file_is_named(make_run, broken):
    run = make_run()
    (run / broken).write_text("label,prediction\nTumor" if broken.endswith("csv") else "{[broken")
    with pytest.raises(InputError, match=f"{broken} cannot be used for the report"):
        read_run(run)


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        read_run(tmp_path / "nothing")
