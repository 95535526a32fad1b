"""
Train on series with one label
==============================

You learn how to train on whole scans when only the scan has a label, and how to see which slices decided.
The scans are synthetic heads of eight slices. Half of them have a lesion, which only some of the
slices show. The lesions are made brighter so that a small network learns to find them in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make series
# -----------
# Each scan is one file, and one row of the table: path, label, patient and unit. ``reslink phantom --set case=series``
# writes such tables too.
import csv
import tempfile
from pathlib import Path

import numpy as np

import reslink
from reslink.datasets.phantom.cohort import render_patient

folder = Path(tempfile.mkdtemp())


def make_series(name, patients, seed):
    rows, lesions = [], {}
    for number in range(1, patients + 1):
        has_lesion = number % 2 == 0
        patient = render_patient(seed, number, tumor=has_lesion, sequence="T1", slices=8, size=128, case="series")
        planes = [plane.pixels + 500 * plane.mask for plane in patient.slices]
        path = folder / f"{name}_{number:02d}.npy"
        np.save(path, np.stack(planes).astype(np.float32))
        rows.append([path.name, "Tumor" if has_lesion else "Healthy", f"{name}{number}", "mr"])
        lesions[path] = [int(plane.mask.sum()) for plane in patient.slices]
    with (folder / f"{name}.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "patient_id", "unit"], *rows])
    return folder / f"{name}.csv", lesions


table, lesions = make_series("series", patients=48, seed=0)

# %%
# Train
# -----
# ``case="series"`` makes a row of the table one case. A training step draws six slices of each of
# eight series.
settings = {
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "model.variant": "reslink_small",
    "data.fractions": [0.6, 0.15, 0.25],
    "trainer.batch_size": 8,
    "trainer.slices": 6,
    "trainer.ema": 0,
    "trainer.workers": 0,
}
run = reslink.train(table, folder / "run", case="series", settings=settings, epochs=12)

# %%
# A case of the test split is a series too, so the metrics are those of series.
auroc = run["metrics"]["auroc"]
print(f"AUROC {auroc['estimate']:.3f} over {auroc['n']} series of other patients")

# %%
# See which slices decided
# ------------------------
# The answer for a series has a weight for each slice. The gray bars show how much of the lesion a slice contains,
# which the model was never told.
import matplotlib.pyplot as plt

with (folder / "run" / "predictions.csv").open(newline="") as stream:
    test = [folder / row["path"] for row in csv.DictReader(stream)]
shown = [path for path in test if sum(lesions[path])][:3]
figure, axes = plt.subplots(1, 3, figsize=(8, 2.6), sharey=True)
for axis, path in zip(axes, shown, strict=True):
    [answer] = reslink.predict(run["bundle"], path, unit="MR")
    area = np.array(lesions[path]) / max(lesions[path])
    axis.bar(range(1, 9), 0.5 * area, color="lightgray", label="lesion area (scaled)")
    axis.plot([i + 1 for i in answer.result.attention], list(answer.result.attention.values()), "o-", label="weight")
    axis.set_title(f"{answer.label}, P(Tumor) {answer.probabilities['Tumor']:.2f}", fontsize=9)
    axis.set_xlabel("slice")
axes[0].legend(fontsize=8)
figure.tight_layout()

# %%
# .. note::
#
#    With 29 scans to train on, the weights are still nearly equal and the probabilities near 0.5: a label per scan says much
#    less than a label per slice. A weight is not a probability, and a slice with a large weight need not show the finding.
