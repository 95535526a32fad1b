"""
Catch a train/test leak
=======================

A random split by image puts slices of one patient into both the training and the test
split. You learn how the audit finds this, how ``reslink split`` avoids it, and how much a
leak changes a test accuracy. The example uses synthetic heads.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Split at random
# ---------------
# Each patient has three neighboring slices. Some slices appear a second time, mirrored and
# under another patient ID, as happens in collections from several sources.
import csv
import random
import tempfile
from pathlib import Path

import reslink
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())
settings = {"patients": 20, "slices": 3, "size": 128, "faults": {"mirrored_duplicates": 0.1}}
make_cohort(folder, PhantomSettings.parse(settings))

with (folder / "manifest.csv").open(newline="") as stream:
    rows = list(csv.DictReader(stream))
order = random.Random(0)
for row in rows:
    row["split"] = order.choices(["train", "test"], weights=[2, 1])[0]
random_split = folder / "random.csv"
with random_split.open("w", newline="") as stream:
    table = csv.DictWriter(stream, fieldnames=rows[0])
    table.writeheader()
    table.writerows(rows)

# %%
# Audit the split
# ---------------
# The check ``group_leakage`` fails. ``group_leakage`` in the result lists each patient and
# each group of near duplicates that appears in more than one split.
result = reslink.audit(random_split, workers=0)
[check] = [check for check in result["checks"] if check["check"] == "group_leakage"]
print("failed:", check["failed"])
print("reason:", check["reason"])

# %%
# Split without a leak
# --------------------
# :func:`reslink.split` keeps the images of a patient and all near duplicates together.
clean_split = folder / "clean.csv"
summary = reslink.split(random_split, clean_split, fractions=(0.6, 0.1, 0.3), group_by="both")
print("images:", summary["n"], "patients:", summary["n_patients"], "groups:", summary["n_groups"])
print("groups in each split:", summary["groups"])

# %%
# Measure the difference
# ----------------------
# To see the leak alone, we give each patient a random label. Nothing can be learned from
# random labels, so the accuracy on new patients is 0.5 on average. A classifier that copies the
# label of the most similar training image does better with the random split, because it
# recognizes the patient.
import numpy as np
from PIL import Image
from sklearn.neighbors import NearestNeighbors


def thumbnail(path):
    return np.asarray(Image.open(path).resize((32, 32)), dtype=float).ravel()


def mean_accuracy(table, labelings=200):
    cases = reslink.Manifest.open(table).cases
    x = np.array([thumbnail(case.path) for case in cases])
    is_test = np.array([case.split == "test" for case in cases])
    patients, patient = np.unique([case.patient_id for case in cases], return_inverse=True)
    search = NearestNeighbors(n_neighbors=1).fit(x[~is_test])
    nearest = search.kneighbors(x[is_test], return_distance=False)[:, 0]
    labels = np.random.default_rng(0).integers(2, size=(labelings, len(patients)))
    return np.mean(labels[:, patient[~is_test][nearest]] == labels[:, patient[is_test]])


accuracy = {"random split": mean_accuracy(random_split), "clean split": mean_accuracy(clean_split)}
for name, value in accuracy.items():
    print(f"mean accuracy with the {name}: {value:.2f}")

# %%
# Look at the leak
# ----------------
# The upper pictures show a training image and a test image that are near duplicates. The
# bars show the mean accuracy with each split; the dashed line is chance.
import matplotlib.pyplot as plt

leak = next(entry for entry in result["group_leakage"] if entry["kind"] == "near_duplicates")
pictures = dict(zip(leak["splits"], leak["paths"], strict=True))  # one path for each split

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
for axis, split in zip(axes, ["train", "test"], strict=False):
    axis.imshow(Image.open(folder / pictures[split]), cmap="gray")
    axis.set_title(f"{split}: {Path(pictures[split]).stem}", fontsize=10)
    axis.axis("off")
axes[2].bar(list(accuracy), list(accuracy.values()), color=["tab:red", "tab:blue"])
axes[2].axhline(0.5, color="black", linestyle="--")
axes[2].set(ylabel="accuracy with random labels", ylim=(0, 1))
figure.tight_layout()

# %%
# :doc:`/concepts/leakage` explains where leaks come from. ``reslink train`` and ``reslink
# evaluate`` refuse a split with a leak.
