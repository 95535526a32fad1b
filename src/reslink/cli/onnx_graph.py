"""The last step of a training: the network as an ONNX graph too, so that predicting needs no torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from reslink.cli.console import Console
from reslink.errors import ReslinkError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What the extra ``export`` installs."""


def add_twin(console: Console, folder: Path) -> bool:
    """Adds ``model.onnx`` to a bundle, once it was found to give the same answers as torch; the bundle is whole either way.

    Args:
        console: Where it is said why there is none: a detail where packages are missing, a warning where something failed.
        folder: The bundle.

    Returns:
        Whether the bundle now has one.
    """
    from reslink.bundles.bundle import Bundle

    bundle = Bundle.load(folder)
    if bundle.onnx_model is not None:
        return True
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        console.detail(f"No model.onnx is written: {', '.join(missing)} not installed (extra 'export').")
        return False
    from reslink.export.onnx import check_parity, to_onnx

    try:
        graph = to_onnx(bundle)
        parity = check_parity(bundle, graph)
        bundle.with_onnx(graph)
    except ReslinkError as error:
        console.warn(f"Warning: no model.onnx was written. {error}")
        return False
    except Exception as error:  # noqa: BLE001  (exporters raise anything; the trained bundle is worth more than its twin)
        console.warn(f"Warning: no model.onnx was written ({type(error).__name__}: {str(error).splitlines()[:1]}).")
        return False
    console.detail(f"model.onnx agrees with torch to {parity.logits:.1g} in the logits of {parity.images} synthetic heads.")
    return True
