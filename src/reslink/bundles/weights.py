"""Reads and writes weights as safetensors, and checks them against the architecture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from reslink.bundles.record import first_error
from reslink.errors import BundleError, listed
from reslink.files import sha256
from reslink.labels import CaseKind
from reslink.settings_text import parse_json

if TYPE_CHECKING:
    import torch

    from reslink.networks.config import ResLinkConfig
    from reslink.networks.entry_points import Builder
    from reslink.networks.external_config import EnsembleConfig, ExternalConfig
    from reslink.networks.network import Network

Array: TypeAlias = NDArray[Any]
TensorLike: TypeAlias = "Array | torch.Tensor"
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

MAX_HEADER_BYTES = 8 << 20
"""A header of ResLink has about 10 kB, one of an ensemble that times its members; a longer one only costs time and memory."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def to_arrays(tensors: Mapping[str, TensorLike]) -> dict[str, Array]:
    """Returns the weights as C-ordered arrays, sorted by name; floats become float32, except float16."""
    return {name: _to_array(tensors[name]) for name in sorted(tensors)}


def _to_array(tensor: TensorLike) -> Array:
    if not isinstance(tensor, np.ndarray):
        tensor = tensor.detach().cpu()
        widened = tensor.is_floating_point() and str(tensor.dtype) != "torch.float16"  # NumPy has no bfloat16
        tensor = (tensor.float() if widened else tensor).numpy()
    keep = tensor.dtype == np.float16 or not np.issubdtype(tensor.dtype, np.floating)
    return np.array(tensor, dtype=tensor.dtype if keep else np.float32, order="C", copy=True)


def to_bytes(arrays: Mapping[str, Array]) -> bytes:
    """Returns a safetensors file with no metadata except its format; equal weights give equal bytes."""
    from safetensors.numpy import save

    return save(dict(arrays), metadata={"format": "pt"})


def check_finite(arrays: Mapping[str, Array]) -> None:
    """Checks that no weight is NaN or infinite.

    Raises:
        BundleError: With the names of the tensors.
    """
    not_finite = [name for name, array in arrays.items() if array.dtype.kind in "fc" and not np.isfinite(array).all()]
    if not_finite:
        raise BundleError(
            f"Weights are not finite in {listed(not_finite)}",
            "Every weight of a bundle is a finite number",
            "Use the last checkpoint before the loss diverged, or train again with a lower learning rate",
        )


def check_file(path: Path, expected: str) -> None:
    """Checks the header and the SHA-256 of a weight file without loading it.

    Raises:
        BundleError: If the safetensors header is invalid or too long, or the file differs from the saved one.
    """
    try:
        with path.open("rb") as stream:
            _check_header(stream.read(8 + MAX_HEADER_BYTES), path)
        digest = sha256(path)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror or error}",
            "reslink must be able to read the weights of a bundle",
            "Check the permissions of the folder",
        ) from error
    _check_hash(digest, expected, path)


def count_parameters(path: Path) -> int:
    """Returns the number of trainable parameters in a weight file from its header; BatchNorm statistics do not count.

    Raises:
        BundleError: If the safetensors header is invalid.
    """
    with path.open("rb") as stream:
        start = stream.read(8 + MAX_HEADER_BYTES)
    _check_header(start, path)
    entries = parse_json(start[8 : 8 + int.from_bytes(start[:8], "little")])
    trained = (name for name in entries if name != "__metadata__" and not name.endswith(_BUFFERS))
    return sum(math.prod(entries[name]["shape"]) for name in trained)


def _check_header(start: bytes, path: Path) -> None:
    """Checks the header of a file: 8 bytes little-endian length, then JSON (the safetensors format)."""
    length = int.from_bytes(start[:8], "little")
    fault = ""
    if len(start) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
        fault = f"its header claims {length} bytes" if len(start) >= 8 else "it ends within its header"
    else:
        try:
            parse_json(start[8 : 8 + length])
        except ValueError:
            fault = "its header is not JSON"
    if fault:
        raise BundleError(
            f"{path} is not a weight file of reslink: {fault}",
            f"Weights are safetensors with a header of at most {MAX_HEADER_BYTES} bytes",
            "Restore the file or train again; files of other kinds (pickle, .pt) are never loaded",
        )


def _check_hash(digest: str, expected: str, path: Path) -> None:
    if digest != expected:
        raise BundleError(
            f"{path} has the SHA-256 {digest[:12]}…, but bundle.json says {expected[:12]}…",
            "The weights must be those that were saved with the bundle",
            "Copy the whole bundle again, or train again",
        )


def load_network(path: Path, expected: str, architecture: Mapping[str, Any], builder: Builder | None = None) -> Network:
    """Returns the network of an architecture with the weights of a file, in eval mode.

    The file is read once, so the checked bytes are the loaded bytes.

    Args:
        path: The weight file.
        expected: SHA-256 of the file.
        architecture: The architecture.
        builder: Builds the network of an entry point.

    Raises:
        BundleError: If the file changed, or a name, a shape or a value does not fit.
        UsageError: As :func:`build_network`.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = path.read_bytes()
        _check_header(content[: 8 + MAX_HEADER_BYTES], path)
        _check_hash(sha256(content), expected, path)
        arrays = load(content)
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"{path} cannot be loaded: {error}", "The weights are a complete safetensors file", "Restore it or train again"
        ) from error
    network = build_network(architecture, builder)
    _compare({name: array.shape for name, array in arrays.items()}, _state_shapes(network))
    check_finite(arrays)
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    return network.eval()


def build_network(architecture: Mapping[str, Any], builder: Builder | None = None) -> Network:
    """Returns the untrained network of an architecture; does not change torch's random state.

    Args:
        architecture: The architecture. It never names code that is run.
        builder: Builds the network of an entry point.

    Raises:
        BundleError: If this version does not know the architecture, with the invalid field.
        UsageError: If the builder is missing or does not fit, or MONAI is not installed.
    """
    from reslink.networks import build

    try:
        config = _network_config(architecture)
    except ValidationError as error:
        raise BundleError(
            f"The architecture of the bundle cannot be built: {first_error(error)}",
            "The architecture holds the fields of ResLinkConfig or ExternalConfig, or an ensemble of those",
            "Use the version of reslink that wrote it, or train again",
        ) from error
    return build.build_network(config, 0, builder, case_of(architecture))


def case_of(architecture: Mapping[str, Any]) -> CaseKind:
    """Returns what has one label for a network: a slice, or a whole series.

    Raises:
        BundleError: If this version does not know the kind of case.
    """
    case = architecture.get("case", "slice")
    if case == "series":
        return "series"
    if case != "slice":
        raise BundleError(
            f"The architecture of the bundle cannot be built: case is {case!r}",
            "A case is a slice or a series",
            "Use the version of reslink that wrote it, or train again",
        )
    return "slice"


def _network_config(architecture: Mapping[str, Any]) -> ResLinkConfig | ExternalConfig | EnsembleConfig:
    from reslink.networks.config import ResLinkConfig
    from reslink.networks.external_config import ENSEMBLE, EnsembleConfig, ExternalConfig

    if architecture.get("source") == ENSEMBLE:
        member = architecture.get("member")
        fields = {"count": architecture.get("count"), "member": _fields(member if isinstance(member, dict) else {})}
        return EnsembleConfig.model_validate_json(json.dumps(fields))
    kind = ExternalConfig if "source" in architecture else ResLinkConfig
    return kind.model_validate_json(json.dumps(_fields(architecture)))


def _fields(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of ``ExternalConfig``, or of ``ResLinkConfig``, which has no name."""
    dropped = {"case"} if "source" in architecture else {"case", "name"}
    return {key: value for key, value in architecture.items() if key not in dropped}


def check_shapes(shapes: Shapes, architecture: Mapping[str, Any], builder: Builder | None = None) -> None:
    """Checks names and shapes of weights against an architecture. Imports torch.

    Raises:
        BundleError: With the names that are missing, unknown, or of another shape.
    """
    _compare(shapes, _state_shapes(build_network(architecture, builder)))


def _state_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _compare(actual: Shapes, expected: Shapes) -> None:
    faults = []
    if missing := sorted(expected.keys() - actual.keys()):
        faults.append(f"missing: {listed(missing)}")
    if unknown := sorted(actual.keys() - expected.keys()):
        faults.append(f"unknown: {listed(unknown)}")
    if other := [n for n in sorted(expected.keys() & actual.keys()) if tuple(actual[n]) != tuple(expected[n])]:
        faults.append("of another shape: " + listed(f"{n} {tuple(actual[n])} for {tuple(expected[n])}" for n in other))
    if faults:
        raise BundleError(
            "The weights do not fit the architecture; " + "; ".join(faults),
            "Each tensor of the architecture needs a weight of the same name and shape",
            "Use the weights and the bundle.json of the same training run",
        )
