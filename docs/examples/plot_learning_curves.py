"""
Compare the learning curves of runs
===================================

You learn how to list the runs in a folder with their metrics, and how to compare their learning
curves. Three networks are trained with different learning rates. The example uses synthetic
heads, whose lesions are made brighter so that a small network learns to find them in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make images
# -----------
import csv
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import reslink
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())
make_cohort(folder / "heads", PhantomSettings(patients=48, modality="T1", slices=1, size=128))
for mask in folder.glob("heads/masks/*.png"):  # make the lesions brighter
    path = folder / "heads" / "images" / mask.name
    pixels = np.asarray(Image.open(path)) + 50.0 * (np.asarray(Image.open(mask)) > 0)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
cases = reslink.Manifest.open(folder / "heads").cases

# %%
# Train three networks
# --------------------
# They have the same data, split and seed. Only the learning rate differs.
settings = {
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "model.variant": "reslink_small",
    "trainer.batch_size": 8,
    "trainer.ema": 0,
    "trainer.workers": 0,
}
for rate in (0.0001, 0.001, 0.01):
    model = reslink.ResLinkClassifier(
        settings=settings | {"optimizer.lr": rate, "trainer.epochs": 5}, out=folder / "runs" / f"rate {rate}"
    )
    model.fit([case.path for case in cases], [case.label for case in cases])

# %%
# List the runs
# -------------
# ``page`` writes the table with the learning curves as a web page. Runs of ``reslink.train`` also
# have the accuracy and AUROC of a test split, with 95 % intervals.
table = reslink.runs(folder / "runs", sort="val_auroc", page=folder / "runs.html")
for run in table["runs"]:
    print(f"{run['run']}: {run['state']}, best epoch {run['best_epoch']}, validation AUROC {run['val_auroc']:.3f}")

# %%
# Draw the learning curves
# ------------------------
# ``results.csv`` in each run folder has one row per epoch.
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for run in table["runs"]:
    with (folder / "runs" / run["run"] / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for axis, column in zip(axes, ("train_loss", "val_loss"), strict=True):
        axis.plot([int(row["epoch"]) for row in rows], [float(row[column]) for row in rows], "o-", label=run["run"])
for axis, title in zip(axes, ("training loss", "validation loss"), strict=True):
    axis.set(xlabel="epoch", ylabel=title, xticks=range(1, 6))
axes[0].legend()
plt.show()
