"""
Predict a DICOM series
======================

You learn how to predict a folder of DICOM slices: one answer for each slice in the order of
the slice positions, and one answer with an interval for the whole series. The example uses
synthetic heads, whose lesions are made brighter so that a small network learns to find them
in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Train on single slices
# ----------------------
# Each training patient has slices at several heights. A slice is labeled ``Tumor`` if the
# lesion is visible in it.
import numpy as np

import reslink
from reslink.datasets.phantom.cohort import render_slice

HEIGHTS = np.linspace(-15, 55, 24)  # mm


def make_slice(seed, patient, height):
    plane = render_slice(seed, patient, level=height, tumor=True, sequence="T1", size=128)
    return plane.pixels + 400 * plane.mask, plane.mask, plane.spacing


X, y, groups = [], [], []
for patient in range(1, 41):
    for height in (None, *HEIGHTS[patient % 8 :: 8]):  # None is the center of the lesion
        pixels, mask, _ = make_slice(0, patient, height)
        X.append(pixels)
        y.append("Tumor" if mask.sum() >= 30 else "Healthy")
        groups.append(patient)

model = reslink.ResLinkClassifier(
    unit="MR",
    settings={
        "preprocess.size": 64,
        "preprocess.channels": 1,
        "model.variant": "reslink_small",
        "trainer.epochs": 8,
        "trainer.batch_size": 8,
        "trainer.ema": 0,
        "trainer.workers": 0,
    },
)
model.fit(X, y, groups=groups)
print("training slices:", len(X), "with a lesion:", y.count("Tumor"))

# %%
# Write a series
# --------------
# A new patient, as a scanner would export it: one DICOM file per slice.
import tempfile
from pathlib import Path

from reslink.datasets.phantom.writers import SliceInfo, write_dicom

series = Path(tempfile.mkdtemp())
images, masks = [], []
for number, height in enumerate(HEIGHTS):
    pixels, mask, spacing = make_slice(1, 4, height)
    thickness = float(HEIGHTS[1] - HEIGHTS[0])
    info = SliceInfo("P0004", number, float(height), spacing, thickness, age=60.0, seed=1)
    path = series / f"{len(HEIGHTS) - number:03d}.dcm"
    path.write_bytes(write_dicom(pixels, ct=False, sequence="T1", info=info))
    images.append(pixels)
    masks.append(mask)
print("files:", len(list(series.iterdir())))

# %%
# Predict each slice
# ------------------
# The files are read in the order of their slice positions, not of their names. This prints
# every sixth slice.
classifier = model.classifier_
predictions = classifier.predict(series)
for prediction in predictions[::6]:
    name = Path(prediction.path).name
    print(f"{name}: {prediction.label}, probability {prediction.probability:.3f}")

# %%
# Predict the series
# ------------------
# The answer for the series averages the slices with the highest tumor probability. The
# interval describes the choice of slices, not the errors of the model.
from reslink.inference.series import aggregate_slices

answer = aggregate_slices(predictions, classifier.bundle.decision)
print("series:", answer.label, f"with probability {answer.probability:.3f}")
print(f"{answer.score_class}: {answer.score:.3f} ({answer.ci_low:.3f} to {answer.ci_high:.3f})")
print("rule:", answer.rule)

# %%
# Compare with the lesion
# -----------------------
# The gray area marks the slices in which the lesion is visible. Circles are the slices that
# the answer for the series averages; the pictures show the lowest and the highest probability.
import matplotlib.pyplot as plt

probability = np.array([prediction.probabilities["Tumor"] for prediction in predictions])
visible = np.array([mask.sum() >= 30 for mask in masks])
used = list(answer.used)
correct = np.array([prediction.label == "Tumor" for prediction in predictions]) == visible
print("slices with the correct label:", correct.sum(), "of", len(correct))

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), width_ratios=[2, 1, 1])
axes[0].fill_between(HEIGHTS, 0, 1, where=visible, color="lightgray", step="mid")
axes[0].plot(HEIGHTS, probability, ".-")
axes[0].plot(HEIGHTS[used], probability[used], "ro", fillstyle="none", markersize=10)
axes[0].set(xlabel="slice position (mm)", ylabel="tumor probability", ylim=(0, 1.03))
for axis, position in zip(axes[1:], [probability.argmin(), probability.argmax()], strict=True):
    axis.imshow(images[position], cmap="gray", vmax=2500)
    axis.set_title(f"{HEIGHTS[position]:.0f} mm, p = {probability[position]:.2f}", fontsize=10)
    axis.axis("off")
figure.tight_layout()

# %%
# :doc:`/user-guide/predict` and :doc:`/user-guide/pacs` show the same for the command line
# and for a picture archive (PACS).
