"""MONAI's bundle layout: ``configs/``, ``models/model.pt`` and ``docs/`` (docs.monai.io, "MONAI Bundle Specification").

Its configuration names classes of reslink, so reslink must be installed where it runs. ``model.pt`` is a state dictionary saved
by torch for MONAI; reslink itself never reads it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from reslink import __version__
from reslink.bundles.card.card import RESEARCH_USE_ONLY, model_card
from reslink.bundles.onnx_graph import FEATURES, LOGITS, PIXELS
from reslink.export.graph import LABEL, PROBABILITIES
from reslink.export.huggingface import config_of
from reslink.export.parity import Arrays, Runner
from reslink.files import optional_import, write_atomic, write_json

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

METADATA: Final = "configs/metadata.json"
INFERENCE: Final = "configs/inference.json"
MODEL: Final = "models/model.pt"
CARD: Final = "docs/README.md"
FILES: Final = (METADATA, INFERENCE, MODEL, CARD)


def write(bundle: Bundle, folder: Path) -> None:
    """Writes the four files; does not need MONAI.

    Raises:
        BundleError: If the bundle is not saved, or its weights do not fit.
    """
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
    write_json(folder / METADATA, _metadata(bundle))
    write_json(folder / INFERENCE, _inference(bundle))
    torch.save(dict(bundle.network().state_dict()), folder / MODEL)
    write_atomic(folder / CARD, model_card(bundle))


def read_back(bundle: Bundle, folder: Path) -> Iterator[tuple[str, Runner]]:
    """Yields the model as MONAI reads it: transforms and network come from the configuration.

    Raises:
        UsageError: If monai is not installed.
    """
    bundles: Any = optional_import("monai.bundle", "monai")
    parser = bundles.ConfigParser()
    parser.read_config(str(folder / INFERENCE))
    network = parser.get_parsed_content("network_def")
    with _quiet():
        loaded = bundles.load(name=folder.name, model=network, bundle_dir=str(folder.parent), model_file=MODEL).eval()
    before, after = (parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing"))

    def call(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            maps = loaded.forward_features(torch.as_tensor(inputs["normalized"]))
            logits, features = loaded.forward_head(maps), maps.mean(dim=(2, 3)).numpy()
        rows = [after({"pred": row}) for row in logits]
        return {
            PROBABILITIES: np.stack([row["pred_probabilities"] for row in rows]),
            LABEL: np.array([row["pred_label"] for row in rows]),
            LOGITS: logits.numpy(),
            FEATURES: features,
        }

    yield (
        MODEL,
        Runner(
            bundle, (PIXELS,), call, lambda images: {"normalized": np.stack([_transformed(before, image) for image in images])}
        ),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the log messages that MONAI writes to stdout, which is for results."""
    previous = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(previous)


def _transformed(transform: Any, image: Any) -> Any:
    return np.asarray(transform({"image": image})["image"])


def _metadata(bundle: Bundle) -> dict[str, Any]:
    preprocess, names, outputs = bundle.preprocess, bundle.labels.names, bundle.architecture["num_classes"]
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": preprocess.channels,
        "spatial_shape": [preprocess.size, preprocess.size],
        "dtype": "float32",
        "value_range": [-preprocess.mean / preprocess.std, (1 - preprocess.mean) / preprocess.std],
        "is_patch_data": False,
        "channel_def": {str(i): "image" for i in range(preprocess.channels)},
    }
    pred = {
        "type": "logits",
        "format": "classification",
        "num_channels": outputs,
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {str(i): name for i, name in enumerate(names[-outputs:])},  # a single logit is that of the last
    }
    return {
        "version": __version__,
        "changelog": {__version__: f"exported by reslink {__version__}"},
        "monai_version": "1.5.0",
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"reslink": __version__, "pytorch-ignite": "0.5.0"},
        "name": f"ResLink: {' / '.join(names)}",
        "task": "Classification of slices of the head",
        "description": f"Residual network with area attention, arXiv 2508.17259. {RESEARCH_USE_ONLY}",
        "authors": "The user of reslink who trained it",
        "copyright": f"License of the weights: {bundle.provenance.get('license', 'not stated')}",
        "intended_use": str(bundle.provenance.get("intended_use", "Research")) + f" {RESEARCH_USE_ONLY}",
        "scope": bundle.scope.model_dump(mode="json"),
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def _inference(bundle: Bundle) -> dict[str, Any]:
    config = config_of(bundle)
    module = "reslink.inference.monai_transforms"
    preprocess = {
        "_target_": f"{module}.ResLinkPreprocessd",
        "keys": "image",
        "settings": bundle.preprocess.model_dump(mode="json"),
    }
    decision = {
        "_target_": f"{module}.ResLinkDecisiond",
        "keys": "pred",
        "settings": config["decision"],
        "labels": list(bundle.labels.names),
    }
    network = {
        "_target_": "reslink.networks.reslink.ResLink",
        "config": {"_target_": "reslink.networks.reslink.ResLinkConfig", **config["network"]},
    }
    return {
        "imports": ["$import pathlib", "$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "dataset_dir": "$@bundle_root + '/images'",
        "datalist": "$[{'image': str(p)} for p in sorted(pathlib.Path(@dataset_dir).rglob('*')) if p.is_file()]",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [preprocess, {"_target_": "EnsureTyped", "keys": "image"}]},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 8, "shuffle": False, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [decision]},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": f"$@bundle_root + '/{MODEL}'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }
