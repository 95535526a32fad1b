"""The flow of images through a run: every image is counted once."""

from __future__ import annotations

import json

from reslink.reports.run.flow_diagram import case_flow
from reslink.reports.run.run_folder import RunFolder, read_run


def test_the_flow_adds_up(make_run):
    run = make_run()
    steps = case_flow(read_run(run))
    counts = {step.title: step.n_images for step in steps}
    assert (
        counts["Readable images"]
        == counts["Training split"] + counts["Validation split (choice of the epoch)"] + counts["Test split"]
    )
    assert counts["Evaluated"] == json.loads((run / "evaluation.json").read_text())["n"]


def test_exclusions_and_abstentions_leave_the_flow():
    evaluation = {
        "n": 50,
        "n_groups": 40,
        "n_failed": 2,
        "excluded": [{"reason": "near duplicate"}, {"reason": "same patient"}, {"reason": "near duplicate"}],
        "selective": {"prediction_sets": {}, "n_abstained": 7, "n_covered": 43, "reasons": {"two classes": 7}},
        "confusion_matrix": {"labels": ["a", "b"], "counts": [[20, 5], [0, 25]]},
    }
    steps = {step.title: step for step in case_flow(RunFolder("run", evaluation=evaluation))}
    assert [(step.n_images, step.excluded) for step in steps.values()] == [
        (3, True),
        (2, True),
        (50, False),
        (7, True),
        (43, False),
    ]
    assert steps["Excluded: overlap with the training or calibration data"].detail == "near duplicate; same patient"
    assert (steps["Evaluated"].n_groups, steps["Evaluated"].detail) == (40, "a: 25, b: 25")
    assert steps["Abstained"].detail == "two classes: 7"
