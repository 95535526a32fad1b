"""The ONNX model of a new bundle, so that prediction needs no torch."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from reslink.errors import ReslinkError

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""The packages that write and check an ONNX model."""

_log = logging.getLogger(__name__)


def add_onnx_model(bundle: Bundle) -> Bundle:
    """Adds ``model.onnx`` to a saved bundle if its outputs agree with torch. A failure is logged; the bundle stays valid.

    Args:
        bundle: The bundle.

    Returns:
        The bundle with its ONNX model, or the given bundle if none could be added.
    """
    if bundle.onnx_model is not None:
        return bundle
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        _log.info("model.onnx is not written: %s not installed (extra 'train').", ", ".join(missing))
        return bundle
    from reslink.export.onnx import check_parity, to_onnx

    try:
        graph = to_onnx(bundle)
        parity = check_parity(bundle, graph)
        extended = bundle.with_onnx(graph)
    except ReslinkError as error:
        _log.warning("model.onnx was not written. %s", error)
        return bundle
    except Exception as error:  # noqa: BLE001  (exporters raise any exception type; the trained bundle must not be lost)
        _log.warning("model.onnx was not written (%s: %s).", type(error).__name__, str(error).partition("\n")[0])
        return bundle
    _log.info("model.onnx: logits of %d synthetic heads agree with torch within %.1g.", parity.images, parity.logits)
    return extended
