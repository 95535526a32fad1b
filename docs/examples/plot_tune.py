"""
Search for the settings of a recipe
===================================

You learn how to search for a learning rate and a number of epochs by cross-validation, how to
read the trials, and why the result is quoted on a hold-out. The example uses synthetic heads,
whose lesions are made brighter so that a small network learns to find them in seconds.

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
make_cohort(folder / "heads", PhantomSettings(patients=80, modality="T1", slices=1, size=128))
for mask in folder.glob("heads/masks/*.png"):  # make the lesions brighter
    path = folder / "heads" / "images" / mask.name
    pixels = np.asarray(Image.open(path)) + 60.0 * (np.asarray(Image.open(mask)) > 0)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)

# %%
# Search
# ------
# The base recipe is the first trial. Its learning rate is far too low. Each trial is trained on
# three grouped folds. Three tenths of the images are held out.
found = reslink.tune(
    folder / "heads",
    folder / "tuned",
    trials=5,
    folds=3,
    holdout=0.3,
    space={"optimizer.lr": {"low": 1e-5, "high": 1e-2, "log": True}, "trainer.epochs": [3, 6]},
    settings={
        "preprocess.size": 64,
        "preprocess.channels": 1,
        "model.variant": "reslink_small",
        "optimizer.lr": 1e-5,
        "trainer.epochs": 3,
        "trainer.batch_size": 8,
        "trainer.ema": 0,
        "trainer.workers": 0,
    },
)
for sentence in found["answer"]:
    print(sentence)

# %%
# Look at the trials
# ------------------
# ``trials.csv`` has one row per trial. ``tune.html`` shows the same with more charts.
with (folder / "tuned" / "trials.csv").open(newline="") as stream:
    rows = list(csv.DictReader(stream))
figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
for epochs, marker in (("3", "o"), ("6", "s")):
    chosen = [row for row in rows if row["trainer.epochs"] == epochs and row["auroc"]]
    rates, means, errors = ([float(row[name] or 0) for row in chosen] for name in ("optimizer.lr", "auroc", "standard_error"))
    axis.errorbar(rates, means, errors, fmt=marker, label=f"{epochs} epochs")
axis.set(xscale="log", xlabel="learning rate", ylabel="AUROC, mean over folds")
axis.legend(loc="upper left")
plt.show()

# %%
# Use the best recipe
# -------------------
# ``best.yaml`` is a plain recipe. The bundle of the last training has not seen the hold-out.
print((folder / "tuned" / "best.yaml").read_text().splitlines()[0])
print(sorted(found["best"]["values"].items()))
cases = reslink.Manifest.open(folder / "heads").cases
print(reslink.predict(found["best"]["bundle"], cases[0].path))
