"""One export: the files of a format, what must travel with them, and the gate that they passed; whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reslink import __version__
from reslink.bundles import storage
from reslink.bundles.card.card import RESEARCH_USE_ONLY, model_card
from reslink.bundles.onnx_graph import CAM, FEATURES, LOGITS, PIXELS
from reslink.errors import UsageError, nearest
from reslink.export import huggingface, monai, onnx, openvino, parity, reference, torch_export
from reslink.export.graph import BOX, HOUNSFIELD, IMAGE, INVERTED, KEEP, LABEL, PROBABILITIES, SLICE
from reslink.export.parity import Inputs, Runner
from reslink.files import sha256, write_atomic, write_json
from reslink.imaging.preprocess import WINDOWS

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.inference.backends import Precision

MANIFEST: Final = "manifest.json"
PARITY: Final = "parity.json"
LABELS: Final = "labels.json"
LICENCE: Final = "LICENCE.txt"
CARD: Final = "MODEL_CARD.md"

TOLERANCES: Final[dict[Precision, float]] = {"fp32": 1e-5, "bf16": 1e-3}
"""Largest difference of a probability that the gate lets through."""

Reader = Callable[..., Iterator[tuple[str, Runner]]]


@dataclass(frozen=True)
class Format:
    """How one format is written and read back.

    Attributes:
        write: Writes its files into a folder and returns their names.
        read_back: Yields them as another party's loader runs them.
        loader: That loader, in words.
        packages: What it was tried with.
        opset: The ONNX operator set; None elsewhere.
    """

    write: Callable[[Bundle, Path], tuple[str, ...]]
    read_back: Reader
    loader: str
    packages: tuple[str, ...]
    opset: int | None = None


FORMATS: Final = {
    "onnx": Format(onnx.write, onnx.read_back, "onnxruntime.InferenceSession", ("onnx", "onnxruntime", "torch"), onnx.OPSET),
    "openvino": Format(openvino.write, openvino.read_back, "openvino.Core", ("openvino", "onnx", "torch"), onnx.OPSET),
    "torch-export": Format(torch_export.write, torch_export.read_back, "torch.export.load", ("torch",)),
    "monai": Format(monai.write, monai.read_back, "monai.bundle.load and ConfigParser", ("monai", "torch")),
    "hf": Format(huggingface.write, huggingface.read_back, "safetensors.torch.load_file", ("safetensors", "torch")),
}

_INPUTS: Final = {
    IMAGE: ("float32", "(B, H, W)", "the slice as it was measured: HU, MR intensity or grey values"),
    KEEP: ("bool", "(B, H, W)", "the pixels of the head; where none is isolated, those that were measured"),
    BOX: ("int64", "(B, 4)", "first row, first column, rows and columns of the crop round the head"),
    HOUNSFIELD: ("bool", "(B,)", "whether the values are HU"),
    INVERTED: ("bool", "(B,)", "whether high values are shown dark (MONOCHROME1)"),
    PIXELS: ("uint8", "(B, planes, S, S)", "what the preprocessing makes of a slice, before normalisation"),
}
_OUTPUTS: Final = {
    PROBABILITIES: "(B, K) float32, calibrated, each row sums to 1",
    LABEL: "(B,) int64, index into the labels at the operating point",
    LOGITS: "(B, K) float32, or (B, 1)",
    FEATURES: "(B, D) float32, pooled",
    CAM: "(B, K, h, w) float32, class activation maps",
    PIXELS: "(B, planes, S, S) uint8, what the network saw",
}


def export(bundle: Bundle, form: str, out: str | Path, inputs: Inputs, *, precision: Precision = "fp32") -> dict[str, Any]:
    """Writes a bundle in another format once the export, read back, gives the same answers.

    Args:
        bundle: A saved bundle.
        form: One of ``FORMATS``.
        out: A new folder, an empty one, or an older export, which is replaced.
        inputs: What both are compared on.
        precision: ``bf16`` for OpenVINO only: compared under that hint, at a wider tolerance.

    Returns:
        What ``parity.json`` holds.

    Raises:
        GateError: If the answers differ by more than the tolerance; nothing is written then.
        UsageError: If there is no such format or precision, or a package is not installed.
        BundleError: If the bundle is not saved, or ``out`` holds something else.
        StorageError: If it cannot be written.
    """
    if form not in FORMATS:
        raise UsageError(f"There is no format {form!r}", f"The formats are {', '.join(FORMATS)}", nearest(form, FORMATS))
    if precision != "fp32" and form != "openvino":
        raise UsageError(f"{precision} was asked for in the format {form}", "Only openvino has it", "Leave --precision out")
    chosen = FORMATS[form]
    with storage.replacing(Path(out), MANIFEST, "export") as part:
        files = chosen.write(bundle, part)
        reader = partial(chosen.read_back, precision=precision) if form == "openvino" else chosen.read_back
        report = _gate(bundle, chosen, part, inputs, reader, precision)
        report = {"format": form, **report}
        _write_common(bundle, form, part, files, report)
    return report


def _gate(bundle: Bundle, chosen: Format, folder: Path, inputs: Inputs, reader: Reader, precision: Precision) -> dict[str, Any]:
    """Compares every file of an export with the package, the preprocessing reference included, which it writes."""
    tolerance = TOLERANCES[precision]
    ours = parity.of_package(bundle, inputs.images)
    files = {}
    for name, runner in reader(bundle, folder):
        what = f"{name} in {chosen.loader}" + (f" with {precision}" if precision != "fp32" else "")
        files[name] = parity.check(parity.compare(ours, runner(inputs.images)), tolerance, what, inputs.source).as_dict()
    write_atomic(folder / reference.NAME, reference.source_of(bundle.preprocess))
    theirs = ours | {PIXELS: np.stack(reference.pixels_of(folder / reference.NAME, inputs.images))}
    found = parity.check(parity.compare(ours, theirs), tolerance, reference.NAME, inputs.source)
    return {
        "loader": chosen.loader,
        "precision": precision,
        "tolerance": tolerance,
        "inputs": inputs.source,
        "images": len(inputs.images),
        "unreadable_files": len(inputs.failed),
        "files": files,
        "reference": {"file": reference.NAME, "images": found.images, "pixels": found.pixels},
        "versions": {"reslink": __version__, **{name: _version(name) for name in chosen.packages}},
        "research_use_only": RESEARCH_USE_ONLY,
    }


def _write_common(bundle: Bundle, form: str, folder: Path, files: tuple[str, ...], report: dict[str, Any]) -> None:
    """Writes what every export holds beside the files of its format."""
    write_json(folder / PARITY, report)
    write_json(folder / LABELS, {"names": list(bundle.labels.names), "positive": bundle.labels.positive})
    write_atomic(folder / CARD, model_card(bundle))
    write_atomic(folder / LICENCE, _licence(bundle))
    write_json(folder / MANIFEST, _manifest(bundle, form, folder, files))


def _manifest(bundle: Bundle, form: str, folder: Path, files: tuple[str, ...]) -> dict[str, Any]:
    """Returns what a program must know to use an export."""
    preprocess, decision = bundle.preprocess, bundle.decision
    graphs: dict[str, dict[str, tuple[str, ...]]] = {
        "onnx": {"model.onnx": SLICE, "network.onnx": (PIXELS,)},
        "openvino": {"network.xml": (PIXELS,)},
    }
    graphs["torch-export"] = {"model.pt2": SLICE}
    return {
        "format": form,
        "opset": FORMATS[form].opset,
        "files": {name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in files},
        "inputs": {name: [_input(one) for one in wanted] for name, wanted in graphs.get(form, {}).items()},
        "outputs": _OUTPUTS | dict.fromkeys(_gates(bundle), "(B, 1, h, w) float32, gates of the area attention"),
        "labels": list(bundle.labels.names),
        "preprocess": {
            "settings": preprocess.model_dump(mode="json"),
            "digest": preprocess.digest(),
            "windows_hu": {name: {"centre": centre, "width": width} for name, (centre, width) in WINDOWS.items()},
            "planes": preprocess.planes,
            "reference": reference.NAME,
        },
        "decision": decision.model_dump(mode="json", include={"threshold", "temperature", "threshold_source", "isotonic"}),
        "steps": _steps(form),
        "not_in_the_export": ["prediction sets", "out-of-distribution gate"] if decision.abstains else [],
        "weights_sha256": bundle.weights_sha256,
        "licence": str(bundle.provenance.get("licence", "not stated")),
        "reslink": __version__,
        "research_use_only": RESEARCH_USE_ONLY,
    }


def _steps(form: str) -> dict[str, dict[str, str]]:
    """Returns who does each step, by file: the file itself, or what comes before it."""
    outside, transform = f"outside: {reference.NAME}", "the transform ResLinkPreprocessd of reslink"
    early, late = ("head isolation", "window", "resize to the square"), ("normalisation", "network", "calibration", "threshold")
    whole = {"head isolation": outside, **dict.fromkeys((*early[1:], *late), "inside")}
    network = {**dict.fromkeys(early, outside), **dict.fromkeys(late, "inside")}
    configured = dict.fromkeys((*early, "normalisation"), transform) | {"network": "inside"}
    configured |= dict.fromkeys(("calibration", "threshold"), "the transform ResLinkDecisiond of reslink")
    stated = {**dict.fromkeys((*early, "normalisation"), f"outside: {reference.NAME}, or preprocessor_config.json in reslink")}
    stated |= {
        "network": "weights inside, built by reslink",
        "calibration": "numbers in config.json",
        "threshold": "number in config.json",
    }
    return {
        "onnx": {"model.onnx": whole, "network.onnx": network},
        "openvino": {"network.xml": network},
        "torch-export": {"model.pt2": whole},
        "monai": {monai.MODEL: configured},
        "hf": {"model.safetensors": stated},
    }[form]


def _input(name: str) -> dict[str, str]:
    dtype, shape, meaning = _INPUTS[name]
    return {"name": name, "dtype": dtype, "shape": shape, "meaning": meaning}


def _gates(bundle: Bundle) -> list[str]:
    places = {"both": ("first", "final"), "first": ("first",), "final": ("final",)}
    return [f"{place}_attention" for place in places.get(str(bundle.architecture.get("attention", "both")), ())]


def _licence(bundle: Bundle) -> str:
    stated = bundle.provenance.get("licence", "not stated")
    return (
        f"{RESEARCH_USE_ONLY}\n\nLicence of the weights: {stated}. It follows that of the training data; {CARD} says more.\n"
        f"The code of reslink, and {reference.NAME}, which is cut out of it: Apache-2.0\n"
        "(https://www.apache.org/licenses/LICENSE-2.0). That licence does not extend to the weights.\n"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
