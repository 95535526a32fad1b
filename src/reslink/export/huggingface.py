"""Hugging Face's layout: safetensors, ``config.json`` with the labels, ``preprocessor_config.json`` and a model card.

``transformers`` has no class for it: ``safetensors`` reads the weights and reslink builds the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from reslink.bundles.card.card import model_card
from reslink.bundles.decision.decision import Decision
from reslink.bundles.onnx_graph import FEATURES, LOGITS, PIXELS
from reslink.bundles.record import WEIGHTS
from reslink.export.graph import LABEL, PROBABILITIES
from reslink.export.parity import Arrays, Runner
from reslink.files import write_atomic, write_json
from reslink.imaging.preprocess import Preprocess
from reslink.networks.reslink import ResLink, ResLinkConfig
from reslink.settings_text import read_json

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

CONFIG: Final = "config.json"
PREPROCESSOR: Final = "preprocessor_config.json"
CARD: Final = "README.md"
FILES: Final = (WEIGHTS, CONFIG, PREPROCESSOR, CARD)

_USE: Final = """
## Load this folder

```python
import json
from pathlib import Path

from reslink.networks.reslink import ResLink, ResLinkConfig
from safetensors.torch import load_file

config = json.loads(Path("config.json").read_text())
network = ResLink(ResLinkConfig(**config["network"])).eval()
network.load_state_dict(load_file("model.safetensors"))
```

`preprocessor_config.json` holds the fields of `reslink.imaging.preprocess.Preprocess`, `config.json` the class names and, under
`decision`, calibration and threshold. `preprocess_reference.py` prepares images without reslink.
"""


def write(bundle: Bundle, folder: Path) -> None:
    """Writes the four files; the weights are those of the bundle to the byte.

    Raises:
        BundleError: If the bundle is not saved, or its weights changed since it was loaded.
    """
    bundle.network()  # raises an error if the weights changed since the bundle was loaded, or do not fit
    source = bundle.folder
    assert source is not None  # noqa: S101  (checked by network())
    write_atomic(folder / WEIGHTS, (source / WEIGHTS).read_bytes())
    write_json(folder / CONFIG, config_of(bundle))
    processor = {"image_processor_type": "reslink.imaging.preprocess.Preprocess", **bundle.preprocess.model_dump(mode="json")}
    write_json(folder / PREPROCESSOR, processor)
    write_atomic(folder / CARD, model_card(bundle).rstrip() + "\n" + _USE)


def config_of(bundle: Bundle) -> dict[str, Any]:
    """Returns the content of ``config.json``."""
    names = bundle.labels.names
    return {
        "model_type": "reslink",
        "architectures": ["ResLink"],
        "network": {name: bundle.architecture[name] for name in ResLinkConfig.model_fields if name in bundle.architecture},
        "num_labels": len(names),
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "scope": bundle.scope.model_dump(mode="json"),
        "decision": bundle.decision.model_dump(mode="json", include={"temperature", "threshold", "isotonic"}),
    }


def read_back(bundle: Bundle, folder: Path) -> Iterator[tuple[str, Runner]]:
    """Yields the weights as ``safetensors`` and reslink read them from the exported files."""
    from safetensors.torch import load_file

    config = read_json(folder / CONFIG)
    settings = read_json(folder / PREPROCESSOR)
    settings.pop("image_processor_type")
    preprocess, decision = Preprocess.model_validate(settings), Decision.model_validate_json(json.dumps(config["decision"]))
    network = ResLink(ResLinkConfig.model_validate(config["network"])).eval()
    network.load_state_dict(load_file(folder / WEIGHTS))

    def call(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            maps = network.forward_features(torch.from_numpy(preprocess.normalize(inputs[PIXELS])))
            logits, features = network.forward_head(maps).numpy(), maps.mean(dim=(2, 3)).numpy()
        probabilities = decision.probabilities(logits)
        return {PROBABILITIES: probabilities, LABEL: decision.predict(probabilities), LOGITS: logits, FEATURES: features}

    yield WEIGHTS, Runner(bundle, (PIXELS,), call)
