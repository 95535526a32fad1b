"""
Cross-validate, and make an ensemble of the folds
=================================================

You learn how to use every image for testing once, what an ensemble of the folds is, and how to
look for wrong labels with the predictions. The heads are synthetic, and the lesions are made brighter
so that a small network learns to find them in seconds. Some labels are wrong on purpose.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make images
# -----------
import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import reslink
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())
heads = make_cohort(folder / "heads", PhantomSettings(patients=120, slices=1, size=128, modality="T1"))
for mask in heads.glob("masks/*.png"):  # make the lesions brighter
    path = heads / "images" / mask.name
    pixels = np.asarray(Image.open(path)) + 70.0 * (np.asarray(Image.open(mask)) > 0)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)

table = heads / "manifest.csv"
lines = table.read_text().splitlines()
wrong = [i for i, line in enumerate(lines) if ",Tumor," in line][::10]
for i in wrong:
    lines[i] = lines[i].replace(",Tumor,", ",Healthy,")
_ = table.write_text("\n".join(lines) + "\n")

# %%
# Cross-validate
# --------------
# One network is trained per fold. A fifth of the patients is a hold-out that no network sees.
settings = {
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "model.variant": "reslink_small",
    "trainer.batch_size": 8,
    "trainer.ema": 0,
    "trainer.workers": 0,
}
result = reslink.cv(heads, folder / "cv", folds=3, holdout=0.2, settings=settings, epochs=12)
for sentence in result["answer"]:
    print(sentence)

# %%
# The ensemble
# ------------
# It is a bundle like any other, and averages the probabilities of the three networks. It knows the
# images of all folds, so that an evaluation on them leaves everything out but the hold-out.
bundle = reslink.Bundle.load(result["bundle"])
print(bundle.architecture["name"], "of", bundle.architecture["count"], bundle.architecture["member"]["name"])
evaluated = reslink.evaluate(result["bundle"], folder / "cv" / "split.csv", folder / "evaluated")
print(evaluated["n"], "images evaluated,", evaluated["n_excluded"], "left out because a network was trained on them")

# %%
# Look for wrong labels
# ---------------------
# The audit's label check can use the out-of-fold predictions instead of a quick model. It checks the
# images of the folds; the hold-out has no out-of-fold prediction.
audit = reslink.audit(heads, predictions=result["predictions"])
with Path(result["predictions"]).open(newline="") as stream:
    rows = list(csv.DictReader(stream))
planted = {lines[i].split(",")[0] for i in wrong} & {row["path"] for row in rows}
suspected = {error["path"] for error in audit["suspected_label_errors"]}
print(
    f"{len(planted & suspected)} of {len(planted)} wrong labels found, among {len(suspected)} suspected of {len(rows)} images"
)

# %%
# Look at the predictions
# -----------------------
# Each point is an image, predicted by a network that was not trained on it.
import matplotlib.pyplot as plt

figure, axis = plt.subplots(figsize=(6, 2.5))
for position, label in enumerate(("Healthy", "Tumor")):
    scores = [float(row["p_Tumor"]) for row in rows if row["label"] == label]
    axis.plot(scores, position + np.linspace(-0.2, 0.2, len(scores)), "o", alpha=0.6)
axis.set_yticks([0, 1], ["labeled Healthy", "labeled Tumor"])
axis.set_xlabel("out-of-fold probability of Tumor")
figure.tight_layout()
