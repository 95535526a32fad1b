"""
Test robustness to image corruptions
====================================

You learn how much accuracy a model loses when images become noisier, blurred or compressed.
All metrics use the same patients, so the losses are paired. The example uses synthetic
heads, whose lesions are made brighter so that a small network learns to find them in
seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make images and train
# ---------------------
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
        pixels = np.asarray(Image.open(path)) + 75.0 * (np.asarray(Image.open(mask)) > 0)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return reslink.Manifest.open(folder / name)


training = make_heads("training", patients=72, seed=0)
test = make_heads("test", patients=40, seed=1)

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
# Run the experiment
# ------------------
# ``robustness`` does the same as ``reslink experiment robustness``. Each corruption has five
# severities. The corruption changes the original image, before preprocessing.
from reslink.experiments.robustness.robustness import RobustnessOptions, robustness

kinds = ("noise", "blur", "ghosting", "jpeg")
options = RobustnessOptions(corruptions=kinds)
report = robustness(folder / "run/bundle", test, folder / "experiments", options)
for sentence in report["answer"]:
    print(sentence)

# %%
# Draw the metrics
# ----------------
# Severity 0 is the original image. Bars are 95 % intervals of the accuracy; an accuracy of
# 0.5 is chance.
import matplotlib.pyplot as plt

[rows] = [table["rows"] for table in report["tables"] if table["name"] == "metrics"]
figure, axes = plt.subplots(1, len(kinds), figsize=(10, 2.8), sharey=True)
for axis, kind in zip(axes, kinds, strict=True):
    values = [row["accuracy"] for row in rows if row["kind"] in (None, kind)]
    estimates = np.array([value["estimate"] for value in values])
    low = estimates - [value["ci_low"] for value in values]
    high = [value["ci_high"] for value in values] - estimates
    axis.errorbar(range(len(values)), estimates, [low, high], marker="o", capsize=3)
    axis.axhline(0.5, color="gray", linestyle="--")
    axis.set(title=kind, xlabel="severity", ylim=(0.3, 1.03))
axes[0].set_ylabel("accuracy")
figure.tight_layout()

# %%
# Look at the corruptions
# -----------------------
# The same tumor at severity 5 of each corruption, and what the model predicts.
from reslink.datasets.corruptions import Original, corrupt

case = next(case for case in test.cases if case.label == "Tumor")
original = Original(reslink.read_image(case.path), case.name)
images = {"original": original.image}
images |= {kind: corrupt(original, kind, severity=5) for kind in kinds}

figure, axes = plt.subplots(1, len(images), figsize=(10, 2.6))
for axis, (name, image) in zip(axes, images.items(), strict=True):
    [prediction] = model.classifier_.predict(image)
    axis.imshow(image.pixels, cmap="gray")
    axis.set_title(f"{name}\n{prediction.label}, p = {prediction.probability:.2f}", fontsize=9)
    axis.axis("off")
figure.tight_layout()
