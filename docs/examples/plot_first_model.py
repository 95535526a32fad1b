"""
Train a first model
===================

This example trains a small network on synthetic MR slices and predicts slices of new
patients. The task is easy on purpose: tell T1 from T2 contrast. It takes about half a
minute on two processor cores.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make images
# -----------
# ``reslink phantom`` writes synthetic heads. We make one set of patients with T1 contrast
# and one with T2 contrast.
import subprocess
import sys
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
for seed, contrast in enumerate(["T1", "T2"]):
    command = f"phantom --out {folder / contrast} --patients 20 --seed {seed} --quiet"
    settings = f"--set modality={contrast} --set slices=1 --set size=128"
    words = [*command.split(), *settings.split()]
    subprocess.run([sys.executable, "-m", "reslink", *words], check=True, capture_output=True)

paths = sorted(folder.glob("T?/images/*.png"))
labels = [path.parts[-3] for path in paths]  # T1 or T2
patients = [f"{path.parts[-3]} {path.stem}" for path in paths]
print(len(paths), "images of", len(set(patients)), "patients")

# %%
# Train
# -----
# :class:`reslink.ResLinkClassifier` is a scikit-learn estimator for paths or arrays.
# ``groups`` names the patient of each image, so that no patient is in both the training
# and the validation split. ``settings`` are recipe keys; these make the network small
# enough for an example.
import numpy as np

import reslink

paths, labels, patients = np.array(paths), np.array(labels), np.array(patients)
is_test = np.array([path.stem >= "P0016" for path in paths])  # 5 of 20 patients per contrast

model = reslink.ResLinkClassifier(
    settings={
        "preprocess.size": 64,
        "preprocess.channels": 1,
        "model.dims": [16, 32],
        "model.depths": [0, 1],
        "model.area_size": 4,
        "trainer.epochs": 20,
        "trainer.batch_size": 8,
        "trainer.ema": 0,
        "trainer.device": "cpu",
        "trainer.workers": 0,
    },
)
model.fit(list(paths[~is_test]), labels[~is_test], groups=patients[~is_test])
print("classes:", *model.classes_)

# %%
# Predict new patients
# --------------------
# ``score`` is the accuracy, as everywhere in scikit-learn.
print("accuracy:", model.score(list(paths[is_test]), labels[is_test]))

# %%
# The trained model is a :class:`reslink.Bundle`, and ``classifier_`` is the
# :class:`reslink.Classifier` that runs it. Each :class:`reslink.Prediction` has a label,
# the probability of that label, and the probabilities of all classes.
predictions = list(model.classifier_.predict(list(paths[is_test])))
for label, prediction in zip(labels[is_test][:3], predictions, strict=False):
    print(f"{label} → {prediction.label}, probability {prediction.probability:.3f}")

# %%
# Look at the predictions
# -----------------------
import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 5, figsize=(9, 4.2))
for axis, prediction in zip(axes.flat, predictions, strict=True):
    axis.imshow(reslink.read_image(prediction.path).pixels, cmap="gray")
    axis.set_title(f"{prediction.label}, p = {prediction.probability:.2f}", fontsize=9)
    axis.axis("off")
figure.tight_layout()

# %%
# .. note::
#
#    Ten test images are far too few to state an accuracy. ``reslink evaluate`` reports
#    every metric with its confidence interval, and gives none for too few patients.
