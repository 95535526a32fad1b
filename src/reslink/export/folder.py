"""Exports a bundle: writes the files of a format, checks parity, and adds labels, license, model card and manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reslink import __version__
from reslink.bundles import zoo
from reslink.bundles.card.card import RESEARCH_USE_ONLY, model_card
from reslink.bundles.decision.decision import Decision
from reslink.bundles.onnx_graph import CAM, FEATURES, LOGITS, PIXELS
from reslink.errors import UsageError, check_choice
from reslink.export import huggingface, monai, onnx, openvino, parity, reference, torch_export
from reslink.export.graph import BOX, HOUNSFIELD, IMAGE, INVERTED, KEEP, LABEL, PROBABILITIES, SLICE, SLICE_WEIGHTS
from reslink.export.parity import Inputs, Runner
from reslink.files import replace_folder, sha256, write_atomic, write_json
from reslink.imaging.preprocess import WINDOWS
from reslink.imaging.slice_selection import MAX_SLICES, MIN_AREA_SHARE
from reslink.networks.external_config import member_architecture

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.inference.backends import Precision

MANIFEST: Final = "manifest.json"
PARITY: Final = "parity.json"
LABELS: Final = "labels.json"
LICENSE: Final = "LICENSE.txt"
CARD: Final = "MODEL_CARD.md"

TOLERANCES: Final[dict[Precision, float]] = {"fp32": 1e-5, "bf16": 1e-3}
"""Largest difference of a probability that passes the parity check."""

Reader = Callable[..., Iterator[tuple[str, Runner]]]


@dataclass(frozen=True)
class Format:
    """How one format is written and read back.

    Attributes:
        exporter: Its module, with ``FILES``, ``write`` and ``read_back``, which yields each file as run by the loader.
        loader: Name of that loader.
        packages: Packages whose versions are recorded.
        opset: The ONNX operator set; None for other formats.
    """

    exporter: ModuleType
    loader: str
    packages: tuple[str, ...]
    opset: int | None = None


FORMATS: Final = {
    "onnx": Format(onnx, "onnxruntime.InferenceSession", ("onnx", "onnxruntime", "torch"), onnx.OPSET),
    "openvino": Format(openvino, "openvino.Core", ("openvino", "onnx", "torch"), onnx.OPSET),
    "torch-export": Format(torch_export, "torch.export.load", ("torch",)),
    "monai": Format(monai, "monai.bundle.load and ConfigParser", ("monai", "torch")),
    "hf": Format(huggingface, "safetensors.torch.load_file", ("safetensors", "torch")),
}

_RESLINK_ONLY: Final = ("monai", "hf")
"""Formats that hold the weights of a ResLink, and that no decision is part of."""

_INPUTS: Final = {
    IMAGE: ("float32", "(B, H, W)", "the measured values of the slice: HU, MR intensity or gray values"),
    KEEP: ("bool", "(B, H, W)", "the pixels of the head, or the measured pixels without head isolation"),
    BOX: ("int64", "(B, 4)", "first row, first column, rows and columns of the crop around the head"),
    HOUNSFIELD: ("bool", "(B,)", "whether the values are HU"),
    INVERTED: ("bool", "(B,)", "whether high values are shown dark (MONOCHROME1)"),
    PIXELS: ("uint8", "(B, planes, S, S)", "the preprocessed slice before normalization"),
}
_OUTPUTS: Final = {
    PROBABILITIES: "(B, K) float32, calibrated, each row sums to 1",
    LABEL: "(B,) int64, index into the labels at the operating point",
    LOGITS: "(B, K) float32, or (B, 1)",
    FEATURES: "(B, D) float32, pooled",
    CAM: "(B, K, h, w) float32, class activation maps",
    PIXELS: "(B, planes, S, S) uint8, the input of the network",
}
_OUTPUTS_OF_LABELS: Final = {
    PROBABILITIES: "(B, K) float32, calibrated, the probability that each label is present",
    LABEL: "(B, K) int64, 1 where a label is present at its operating point, else 0",
}
"""The outputs that several labels at once change."""
_SELECTION: Final = {
    "batch": "B slices of one series in any order, each once; in model.onnx and model.pt2 all of one size",
    "min_area_share": MIN_AREA_SHARE,
    "max_slices": MAX_SLICES,
    "reference": f"select_slices in {reference.NAME}",
}
"""Which slices of a series the batch holds."""
_OUTPUTS_OF_SERIES: Final = {
    PROBABILITIES: "(1, K) float32, calibrated, of the series; the sum is 1",
    LABEL: "(1,) int64, index into the labels at the operating point, of the series",
    LOGITS: "(1, K) float32, or (1, 1), of the series: those of its slices, weighted",
    FEATURES: "(1, D) float32, of the series: those of its slices, weighted",
    SLICE_WEIGHTS: "(B,) float32, the weight of each slice in the answer; the sum is 1",
}
"""The outputs where a case is a series, and the batch holds its slices."""


def export(bundle: Bundle, form: str, out: str | Path, inputs: Inputs, *, precision: Precision = "fp32") -> dict[str, Any]:
    """Writes a bundle in another format, if the export gives the same answers when it is read back.

    Args:
        bundle: A saved bundle.
        form: One of ``FORMATS``.
        out: A new folder, an empty one, or an older export, which is replaced.
        inputs: The images for the parity check.
        precision: ``bf16`` is only for OpenVINO, which is then checked with that hint and a wider tolerance.

    Returns:
        The content of ``parity.json``.

    Raises:
        CheckFailedError: If the answers differ by more than the tolerance; nothing is written then.
        UsageError: If there is no such format or precision, a package is not installed, or ``out`` has other content.
        BundleError: If the bundle is not saved.
        StorageError: If it cannot be written.
    """
    check_form(bundle, form, precision)
    chosen = FORMATS[form]
    zoo.check_not_shipped(Path(out))
    with replace_folder(Path(out), MANIFEST, "export") as folder:
        chosen.exporter.write(bundle, folder)
        read_back = chosen.exporter.read_back
        reader = partial(read_back, precision=precision) if form == "openvino" else read_back
        report = {"format": form, **_check_parity(bundle, chosen, folder, inputs, reader, precision)}
        _write_common(bundle, form, folder, report)
    return report


def check_form(bundle: Bundle, form: str, precision: Precision = "fp32") -> None:
    """Checks that a format can hold a bundle, before anything is read or written.

    Raises:
        UsageError: If there is no such format or precision, or the format cannot hold the answers of the bundle.
    """
    check_choice("format", form, FORMATS)
    if precision != "fp32" and form != "openvino":
        raise UsageError(f"--precision {precision} was given for {form}", "Only openvino supports it", "Omit --precision")
    others = ", ".join(name for name in FORMATS if name not in _RESLINK_ONLY)
    if form in _RESLINK_ONLY:
        bundle.require_slices(f"The format {form}", f"Choose {others}, which combine the slices of a series")
    if form in _RESLINK_ONLY and bundle.decision.flip_average:
        raise UsageError(
            f"The bundle averages over mirror images, which {form} cannot hold",
            f"{form} holds the network alone; onnx, openvino and torch-export hold the average too",
            "Choose one of these formats, or calibrate the bundle without --flip-average",
        )
    if form in _RESLINK_ONLY and "source" in bundle.architecture:
        raise UsageError(
            f"The network of the bundle is {bundle.architecture['name']}, which {form} cannot hold",
            f"The formats {' and '.join(_RESLINK_ONLY)} are for a ResLink, which their readers build",
            f"Choose {others}",
        )
    if form in _RESLINK_ONLY:
        bundle.labels.require_exclusive(f"The format {form}", f"Choose {others}")


def parity_inputs(bundle: Bundle, data: str | Path | None, count: int) -> Inputs:
    """Returns the images of the parity check: slices, or series where a case of the bundle is a series.

    Args:
        bundle: The bundle.
        data: A folder, file or glob with images; None for synthetic heads.
        count: Number of slices, at least 1.

    Raises:
        InputError: If nothing can be read.
    """
    if bundle.case == "series":
        return Inputs.synthetic_series(count) if data is None else Inputs.read_series(data, count)
    return Inputs.synthetic(count) if data is None else Inputs.read(data, count)


def _check_parity(
    bundle: Bundle, chosen: Format, folder: Path, inputs: Inputs, reader: Reader, precision: Precision
) -> dict[str, Any]:
    """Writes the preprocessing reference and compares it and every file of the export with the package."""
    tolerance = TOLERANCES[precision]
    expected = parity.reference_outputs(bundle, inputs.images, inputs.series)
    files = {}
    for name, runner in reader(bundle, folder):
        what = f"{name} in {chosen.loader}" + (f" with {precision}" if precision != "fp32" else "")
        actual = runner(inputs.images, inputs.series)
        files[name] = parity.check(parity.compare(expected, actual), tolerance, what, inputs.source).as_dict()
    write_atomic(folder / reference.NAME, reference.reference_source(bundle.preprocess, bundle.case))
    actual = expected | {PIXELS: np.stack(reference.reference_pixels(folder / reference.NAME, inputs.images))}
    result = parity.check(parity.compare(expected, actual), tolerance, reference.NAME, inputs.source)
    return {
        "loader": chosen.loader,
        "precision": precision,
        "tolerance": tolerance,
        "inputs": inputs.source,
        "images": len(inputs.images),
        **({"series": len(inputs.series)} if inputs.series else {}),
        "unreadable_files": len(inputs.failed),
        "files": files,
        "reference": {"file": reference.NAME, "images": result.images, "pixels": result.pixels},
        "versions": {"reslink": __version__, **{name: _version(name) for name in chosen.packages}},
        "research_use_only": RESEARCH_USE_ONLY,
    }


def _write_common(bundle: Bundle, form: str, folder: Path, report: dict[str, Any]) -> None:
    """Writes the files that all formats have in common."""
    write_json(folder / PARITY, report)
    several = {} if bundle.labels.exclusive else {"exclusive": False}
    write_json(folder / LABELS, {"names": list(bundle.labels.names), "positive": bundle.labels.positive, **several})
    write_atomic(folder / CARD, model_card(bundle))
    write_atomic(folder / LICENSE, _license(bundle))
    write_json(folder / MANIFEST, _manifest(bundle, form, folder))


def _manifest(bundle: Bundle, form: str, folder: Path) -> dict[str, Any]:
    """Returns the machine-readable description of an export."""
    preprocess, decision = bundle.preprocess, bundle.decision
    graphs: dict[str, dict[str, tuple[str, ...]]] = {
        "onnx": {"model.onnx": SLICE, "network.onnx": (PIXELS,)},
        "openvino": {"network.xml": (PIXELS,)},
    }
    graphs["torch-export"] = {"model.pt2": SLICE}
    return {
        "format": form,
        "opset": FORMATS[form].opset,
        "files": {
            name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
            for name in FORMATS[form].exporter.FILES
        },
        "inputs": {file: [_input(name) for name in names] for file, names in graphs.get(form, {}).items()},
        "outputs": _OUTPUTS
        | ({} if bundle.labels.exclusive else _OUTPUTS_OF_LABELS)
        | ({} if bundle.case == "slice" else _OUTPUTS_OF_SERIES)
        | dict.fromkeys(_attention_layers(bundle), "(B, 1, h, w) float32, attention weights"),
        "labels": list(bundle.labels.names),
        **({} if bundle.labels.exclusive else {"exclusive": False}),
        **({} if bundle.case == "slice" else {"case": "series", "slice_selection": _SELECTION}),
        "scope": bundle.scope.model_dump(mode="json"),
        "preprocess": {
            "settings": preprocess.model_dump(mode="json"),
            "digest": preprocess.digest(),
            "windows_hu": {name: {"center": center, "width": width} for name, (center, width) in WINDOWS.items()},
            "planes": preprocess.planes,
            "reference": reference.NAME,
        },
        "decision": _exported_decision(decision),
        "steps": _steps(form, bundle),
        "not_exported": [
            "refusal of images outside the scope",
            *(["prediction sets", "out-of-distribution detector"] if decision.abstains else []),
        ],
        "weights_sha256": bundle.weights_sha256,
        "license": str(bundle.provenance.get("license", "not stated")),
        "reslink": __version__,
        "research_use_only": RESEARCH_USE_ONLY,
    }


def _exported_decision(decision: Decision) -> dict[str, Any]:
    """Returns the part of the decision that the export contains."""
    parts: dict[str, Any] = decision.model_dump(
        mode="json", include={"threshold", "temperature", "threshold_source", "isotonic"}
    )
    return parts | ({"by_label": [_exported_decision(one) for one in decision.by_label]} if decision.by_label else {})


def _steps(form: str, bundle: Bundle) -> dict[str, dict[str, str]]:
    """Returns for each file where each step is done: inside the file or outside."""
    steps = _steps_of_slices(form)
    if bundle.case == "slice":
        return steps
    selection = {"slice selection": f"outside: {reference.NAME}"}
    return {file: selection | {"pooling of the slices": "inside"} | of_file for file, of_file in steps.items()}


def _steps_of_slices(form: str) -> dict[str, dict[str, str]]:
    outside, transform = f"outside: {reference.NAME}", "the transform ResLinkPreprocessd of reslink"
    early, late = ("head isolation", "window", "resize to the square"), ("normalization", "network", "calibration", "threshold")
    whole = {"head isolation": outside, **dict.fromkeys((*early[1:], *late), "inside")}
    network = {**dict.fromkeys(early, outside), **dict.fromkeys(late, "inside")}
    configured = dict.fromkeys((*early, "normalization"), transform) | {"network": "inside"}
    configured |= dict.fromkeys(("calibration", "threshold"), "the transform ResLinkDecisiond of reslink")
    stated = {**dict.fromkeys((*early, "normalization"), f"outside: {reference.NAME}, or preprocessor_config.json in reslink")}
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


def _attention_layers(bundle: Bundle) -> list[str]:
    architecture = member_architecture(bundle.architecture)
    if "source" in architecture:
        return ["first_attention", "final_attention"] if architecture["source"] == "notebook" else []
    layers = {"both": ("first", "final"), "first": ("first",), "final": ("final",)}
    return [f"{layer}_attention" for layer in layers.get(str(architecture.get("attention", "both")), ())]


def _license(bundle: Bundle) -> str:
    stated = bundle.provenance.get("license", "not stated")
    return (
        f"{RESEARCH_USE_ONLY}\n\nLicense of the weights: {stated}. It follows that of the training data; see {CARD}.\n"
        f"The code of reslink, and {reference.NAME}, which is copied from it: Apache-2.0\n"
        "(https://www.apache.org/licenses/LICENSE-2.0). That license does not cover the weights.\n"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
