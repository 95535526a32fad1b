"""
Fine-tune a model on few images
===============================

You learn how to start from a trained model instead of random weights, what is taken over
from it, and how the new model remembers what its parent was trained on. The parent is trained
on 80 synthetic heads of one hospital; the other hospital has only 20. The lesions are made
brighter so that a small network learns to find them in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make images
# -----------
# The third cohort is for the final test. No patient is in two cohorts.
import json
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
        pixels = np.asarray(Image.open(path)) + 70.0 * (np.asarray(Image.open(mask)) > 0)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder / name


many = make_heads("many", patients=80, seed=0)
few = make_heads("few", patients=20, seed=1)
new = make_heads("new", patients=50, seed=2)

# %%
# Train the parent
# ----------------
# There is no test split here, because a cohort of its own is used for the test.
settings = {"data.fractions": [0.8, 0.2, 0.0], "trainer.batch_size": 8, "trainer.ema": 0, "trainer.workers": 0}
network = {"preprocess.size": 64, "preprocess.channels": 1, "model.variant": "reslink_small"}
parent = reslink.train(many, folder / "parent", settings=settings | network, epochs=12)

# %%
# Fine-tune it
# ------------
# ``init`` takes a run, a bundle, or a shipped model such as ``"ct"``. The shape of the network and the
# preprocessing come from the parent. ``freeze`` names modules that are not trained.
tuned = reslink.train(few, folder / "tuned", settings=settings, init=folder / "parent", freeze=["stem"], epochs=6)
scratch = reslink.train(few, folder / "scratch", settings=settings | network, epochs=6)

record = json.loads((folder / "tuned" / "init.json").read_text())
print(len(record["taken_over"]), "weights and statistics taken over,", len(record["new"]), "new")

# %%
# What the model remembers
# ------------------------
# The bundle names its ancestors and keeps the fingerprints of their training images. An evaluation of the
# new model therefore leaves out the images of the parent, as far as they are near duplicates.
bundle = reslink.Bundle.load(tuned["bundle"])
for ancestor in bundle.lineage:
    print("ancestor with the classes", *ancestor.labels, "and", len(ancestor.training_images), "training images")

# %%
# Compare both on new patients
# ----------------------------
results = {
    name: reslink.evaluate(run["bundle"], new, folder / f"evaluated-{name}")["metrics"]["auroc"]
    for name, run in {"from scratch": scratch, "fine-tuned": tuned}.items()
}
for name, auroc in results.items():
    print(f"{name}: AUROC {auroc['estimate']:.3f}")

# %%
# Look at the validation loss while both are trained: the fine-tuned model starts where its parent
# ended.
import csv

import matplotlib.pyplot as plt

figure, axis = plt.subplots(figsize=(6, 3))
for name, run in {"from scratch": scratch, "fine-tuned": tuned}.items():
    with (Path(run["run"]) / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    axis.plot([int(row["epoch"]) for row in rows], [float(row["val_loss"]) for row in rows], "o-", label=name)
axis.set_xlabel("epoch")
axis.set_ylabel("validation loss")
axis.legend()
figure.tight_layout()

# %%
# .. note::
#
#    One seed and one cohort show little. ``reslink experiment data-size --init`` trains several sizes and
#    seeds, from scratch and fine-tuned, and reports the differences with intervals.
