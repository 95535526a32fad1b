"""Reads files of a bundle and compares them with the SHA-256 in ``bundle.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from reslink.errors import unusable_bundle
from reslink.files import sha256


def read_verified(path: Path, expected: str) -> bytes:
    """Returns the bytes of a file; the bytes that are checked are the bytes that are returned.

    Args:
        path: The file.
        expected: Its SHA-256, as ``bundle.json`` states it.

    Raises:
        BundleError: If the file is missing or differs from the saved one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unusable_bundle(path, error.strerror or str(error)) from error
    digest = sha256(content)
    if digest != expected:
        raise unusable_bundle(path, f"its SHA-256 is {digest[:12]}…, but bundle.json says {expected[:12]}…")
    return content


def read_arrays(path: Path, expected: str) -> dict[str, NDArray[Any]]:
    """Returns the arrays of a safetensors file by name, with the arguments of :func:`read_verified`.

    Raises:
        BundleError: If the file is missing, differs from the saved one or is not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = read_verified(path, expected)
    try:
        return load(content)
    except SafetensorError as error:
        raise unusable_bundle(path, str(error)) from error
