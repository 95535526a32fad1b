"""
Calibrate a model and let it abstain
====================================

A trained network can be wrong with a high probability. You learn how to fit calibrated
probabilities, prediction sets and an out-of-distribution (OOD) detector on new patients,
and what the model answers afterwards. The example uses synthetic heads, whose lesions are
made slightly brighter so that a small network learns to find most of them in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make images
# -----------
# Training, calibration and test images come from different patients.
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import reslink
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())


def make_heads(name, patients, seed):
    settings = PhantomSettings(patients=patients, seed=seed, modality="T1", slices=1, size=128)
    make_cohort(folder / name, settings)
    for mask in folder.glob(f"{name}/masks/*.png"):  # make the lesions brighter
        path = folder / name / "images" / mask.name
        pixels = np.asarray(Image.open(path)) + 45.0 * (np.asarray(Image.open(mask)) > 0)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return reslink.Manifest.open(folder / name)


training = make_heads("training", patients=72, seed=0)
calibration = make_heads("calibration", patients=60, seed=1)
test = make_heads("test", patients=50, seed=2)
print(test)

# %%
# Train
# -----
# ``out`` keeps the run folder with the bundle, the trained model on disk.
model = reslink.ResLinkClassifier(
    settings={
        "preprocess.size": 64,
        "preprocess.channels": 1,
        "model.variant": "reslink_small",
        "trainer.epochs": 10,
        "trainer.batch_size": 8,
        "trainer.ema": 0,
        "trainer.workers": 0,
    },
    out=folder / "run",
)
model.fit([case.path for case in training.cases], [case.label for case in training.cases])
print("classes:", *model.classes_)

# %%
# Calibrate
# ---------
# ``calibrate_bundle`` does the same as the command ``reslink calibrate``. The weights do not
# change. ``coverage`` is the share of new cases whose prediction set contains the true class.
from reslink.evaluation.calibrate import calibrate_bundle
from reslink.evaluation.fitting import DecisionOptions

options = DecisionOptions(coverage=0.9)
fitted = calibrate_bundle(folder / "run/bundle", calibration, folder / "calibrated", options)
calibrated = reslink.Bundle.load(folder / "calibrated")
print("temperature:", round(calibrated.decision.temperature, 2))
print("notes:", fitted["notes"])
print(calibrated)

# %%
# Evaluate
# --------
# ``metrics`` covers all evaluated cases, ``selective`` only the answered ones. Cases that look
# like near duplicates of training or calibration images are excluded.
before = reslink.evaluate(folder / "run/bundle", test, folder / "before")
after = reslink.evaluate(folder / "calibrated", test, folder / "after")
selective = after["selective"]
print("evaluated cases:", after["n"], "of", len(test))
print("AUROC:", round(after["metrics"]["auroc"]["estimate"], 3))
print("calibration error before:", round(before["metrics"]["ece"]["estimate"], 3))
print("calibration error after:", round(after["metrics"]["ece"]["estimate"], 3))
sets = selective["prediction_sets"]
print("coverage of the prediction sets:", round(sets["coverage"]["estimate"], 3))
print("accuracy on all evaluated cases:", round(after["metrics"]["accuracy"]["estimate"], 3))
print("answered cases:", selective["n_covered"], "of", after["n"])
print("accuracy on answered cases:", round(selective["metrics"]["accuracy"]["estimate"], 3))

# %%
# Predict an unusual image
# ------------------------
# The OOD detector flags an image that is unlike the calibration images, such as a head with
# T2 contrast. The model then abstains and gives the reason.
settings = PhantomSettings(patients=1, seed=3, modality="T2", slices=1, size=128)
unusual = make_cohort(folder / "t2", settings)
[prediction] = reslink.predict(folder / "calibrated", unusual / "images")
print("OOD score:", round(prediction.ood_score, 2))
print("abstains:", prediction.abstain)
print("reasons:", *prediction.reasons, sep="\n  ")

# %%
# Draw answers and abstentions
# ----------------------------
# Left: the tumor probability of each test case. The model abstains where it is uncertain.
# Right: the error rate if only the most confident cases are answered (risk–coverage curve).
import matplotlib.pyplot as plt

predictions = reslink.predict(folder / "calibrated", [case.path for case in test.cases])
probability = np.array([prediction.probabilities["Tumor"] for prediction in predictions])
abstains = np.array([prediction.abstain for prediction in predictions])
is_tumor = np.array([case.label == "Tumor" for case in test.cases])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
height = is_tumor + np.random.default_rng(0).uniform(-0.25, 0.25, len(test))  # less overlap
for name, chosen in {"answers": ~abstains, "abstains": abstains}.items():
    left.scatter(probability[chosen], height[chosen], label=name, s=18)
left.set(xlabel="calibrated tumor probability", ylabel="true class")
left.set_yticks([0, 1], ["Healthy", "Tumor"])
left.legend()
curve = selective["risk_coverage"]["curve"]
right.step([row["coverage"] for row in curve], [row["risk"] for row in curve], where="post")
right.set(xlabel="share of answered cases", ylabel="error rate", xlim=(0, 1), ylim=(0, None))
figure.tight_layout()
