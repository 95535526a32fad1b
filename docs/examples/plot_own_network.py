"""
Build your own network in torch
===============================

You learn how to build an untrained ResLink, read its size and receptive fields, put area
attention into a network of your own, train that network in a plain torch loop, draw
Grad-CAM and attention maps for it, and train it with reslink. The example uses synthetic heads, whose lesions are made
brighter so that a small network learns to find them in seconds.

Research use only. Not a medical device; not for diagnosis.
"""

# %%
# Build an untrained ResLink
# --------------------------
# A variant is a starting point; each field of its configuration can be changed.
# ``build_network`` returns weights that depend only on the seed.
import torch

from reslink.networks.analysis import count_parameters, receptive_fields
from reslink.networks.reslink import build_network, variant_config

config = variant_config("reslink_small", in_channels=1, num_classes=3)
reslink_network = build_network(config, seed=0).eval()
with torch.no_grad():
    features = reslink_network.forward_features(torch.zeros(2, 1, 128, 128))
    logits = reslink_network.forward_head(features)
print("feature map:", tuple(features.shape), "logits:", tuple(logits.shape))

# %%
# Read its layers
# ---------------
# The receptive field is the side of the square of input pixels that one unit depends on,
# including the areas of the attention layers.
for name, layer in reslink_network.named_children():
    print(f"{name:<16} {count_parameters(layer):>8,} parameters")
for field in receptive_fields(reslink_network, size=128):
    print(f"{field.stage:<16} stride {field.stride:>2}, receptive field {field.size_with_attention:>3} pixels")

# %%
# Build a network of your own
# ---------------------------
# ``AreaAttention`` is a torch layer that keeps the shape of a feature map. You can put it
# into any network. This one pools with the maximum, so that a small lesion counts as much as a
# large one.
from torch import nn

from reslink.networks.area_attention import AreaAttention


class SmallNetwork(nn.Module):
    def __init__(self, in_channels=1, num_classes=2):
        super().__init__()
        layers = []
        for before, after, stride in [(in_channels, 16, 2), (16, 32, 2), (32, 32, 1)]:
            layers += [nn.Conv2d(before, after, 3, stride, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.attention = AreaAttention(32, area_size=4)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        features = self.attention(self.convolutions(x))
        return self.head(features.amax(dim=(2, 3)))


# %%
# Prepare images
# --------------
# ``Preprocess`` isolates the head, scales the gray values and resizes, as for every model of
# reslink. ``normalize`` returns the input of the network.
import numpy as np

import reslink
from reslink.datasets.phantom.cohort import render_slice

preprocess = reslink.Preprocess(size=64, channels=1)


def make_images(seed, patients):
    pixels, masks = [], []
    for number in range(1, patients + 1):
        plane = render_slice(seed, number, tumor=number % 2 == 0, sequence="T1", size=128)
        image = reslink.Image(plane.pixels + 800 * plane.mask, unit="MR")
        pixels.append(preprocess.pixels(image))
        masks.append(preprocess.placement(image).to_network(plane.mask))
    x = torch.from_numpy(preprocess.normalize(np.stack(pixels)))
    y = torch.tensor([number % 2 == 0 for number in range(1, patients + 1)]).long()
    return x, y, masks


x, y, _ = make_images(seed=0, patients=80)
new_x, new_y, new_masks = make_images(seed=1, patients=40)
print("training images:", tuple(x.shape), "new images:", tuple(new_x.shape))

# %%
# Train in torch
# --------------
from sklearn.metrics import roc_auc_score

torch.manual_seed(0)  # noqa: TID251
network = SmallNetwork()
optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
for _ in range(12):
    for batch in torch.randperm(len(x)).split(8):
        loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

network.eval()
with torch.no_grad():
    probability = network(new_x).softmax(dim=1)[:, 1]
print("AUROC on new patients:", round(roc_auc_score(new_y, probability), 3))

# %%
# Draw its maps
# -------------
# ``grad_cam`` works on any ``nn.Module`` with class scores, and ``attention_maps`` on any
# network that contains an ``AreaAttention``. Each row is a new patient with a tumor; the line is the
# border of the lesion.
import matplotlib.pyplot as plt

from reslink.explain.attention import attention_maps
from reslink.explain.attribution import grad_cam

tumors = new_y.nonzero()[:3, 0]
evidence = grad_cam(network, new_x[tumors], target=1, layer=network.attention)
attention = attention_maps(network, new_x[tumors])["attention"]
side = new_x.shape[-1]

figure, axes = plt.subplots(3, 3, figsize=(7, 7))
for row, index, cam, weights in zip(axes, tumors.tolist(), evidence, attention, strict=True):
    names = [f"p(Tumor) = {probability[index]:.2f}", "attention", "Grad-CAM"]
    for axis, name, heat in zip(row, names, [None, weights, cam], strict=True):
        axis.imshow(new_x[index, 0], cmap="gray", extent=(0, side, side, 0))
        if heat is not None:
            axis.imshow(heat, cmap="inferno", alpha=0.5, extent=(0, side, side, 0))
        axis.contour(new_masks[index], levels=[0.5], colors="cyan", linewidths=1)
        axis.set_title(name, fontsize=9)
        axis.axis("off")
figure.tight_layout()

# %%
# Train it with reslink
# ---------------------
# Pass the network to ``reslink.train``: splits by patient, metrics with intervals, the report, the
# bundle with its ONNX model and the maps are then the same as for a ResLink. The bundle holds the weights, not the
# code. Prediction uses the ONNX model; pass the network again to load it in torch.
import tempfile
from pathlib import Path

from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

folder = Path(tempfile.mkdtemp())
cohort = make_cohort(folder / "heads", PhantomSettings(patients=24, slices=1, size=128))
settings = {"preprocess.size": 64, "preprocess.channels": 1, "trainer.workers": 0, "trainer.device": "cpu"}
run = reslink.train(cohort, folder / "run", network=SmallNetwork, epochs=2, settings=settings)
auroc = run["metrics"]["auroc"]
print("network:", reslink.Bundle.load(run["bundle"]).architecture["name"])
print("test images:", auroc["n"], "AUROC:", auroc["estimate"])

[prediction] = reslink.predict(run["bundle"], sorted((cohort / "images").glob("*.png"))[0])
print(prediction)
torch_network = reslink.Bundle.load(run["bundle"], network=SmallNetwork).network()
