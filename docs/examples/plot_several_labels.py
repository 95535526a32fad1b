"""
Several labels at once
======================

You learn how to train one model for several findings that can occur together, how unknown cells are treated,
and how to read the answers. The heads are synthetic. One label says whether there is a lesion, the other
whether there is a bright device in the picture.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Make a table
# ------------
# Each label is a column of 1 and 0. An empty cell is unknown: here, nobody looked for a device in every seventh image.
import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import reslink
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())
make_cohort(folder, PhantomSettings(patients=120, seed=0, modality="T1", slices=1, size=128))
lines = ["path,patient_id,lesion,device"]
with (folder / "manifest.csv").open(newline="") as stream:
    for i, row in enumerate(csv.DictReader(stream)):
        pixels = np.asarray(Image.open(folder / row["path"])).astype(float)
        if row["mask"]:  # make the lesions brighter, so that a small network finds them in seconds
            pixels += 90.0 * (np.asarray(Image.open(folder / row["mask"])) > 0)
        if has_device := i % 3 == 0:
            pixels[58:72, 40:44] = pixels[58:72, 84:88] = 255.0
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / row["path"])
        known = "" if i % 7 == 0 else int(has_device)
        lines.append(f"{row['path']},{row['patient_id']},{int(bool(row['mask']))},{known}")
(folder / "labels.csv").write_text("\n".join(lines) + "\n")
print(*lines[:5], sep="\n")

# %%
# Train
# -----
# ``labels`` names the columns. The network has one sigmoid output per label, and unknown cells add nothing to the loss.
settings = {
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "model.variant": "reslink_small",
    "trainer.batch_size": 8,
    "trainer.ema": 0,
    "trainer.workers": 0,
    "data.fractions": [0.55, 0.15, 0.3],
    "decision.threshold": "youden",
}
run = reslink.train(folder / "labels.csv", folder / "run", labels=["lesion", "device"], settings=settings, epochs=10)

# %%
# Look at each label
# ------------------
# The metrics of a label are measured on the test images in which it is known. ``metrics`` are the means over the labels.
for name, label in run["by_label"].items():
    auroc = label["auroc"]
    print(f"{name}: present in {label['n_present']} of {label['n']} images, AUROC {auroc['estimate']:.3f}")
print(f"mean AUROC {run['metrics']['auroc']['estimate']:.3f}")

# %%
# Predict
# -------
# Every label has its own probability, threshold and answer.
images = sorted((folder / "images").glob("*.png"))[:6]
predictions = reslink.predict(run["bundle"], images)
for prediction in predictions:
    shown = ", ".join(f"{name} {one.probability:.2f}" for name, one in prediction.by_label.items())
    print(f"{Path(prediction.path).name}: {prediction.label}  ({shown})")

# %%
# Show the answers beside the images.
import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 3, figsize=(7, 5.2))
for axis, path, prediction in zip(axes.flat, images, predictions, strict=True):
    axis.imshow(Image.open(path), cmap="gray")
    axis.set_title(prediction.label, fontsize=9)
    axis.axis("off")
figure.tight_layout()

# %%
# .. note::
#
#    A label that is present in few patients has wide intervals, or none. ``run["by_label"]`` and the report state how
#    often each label is present; report these numbers with every metric.
