"""Entry points: the code that builds your own network, such as ``my_package.nets:build`` or ``nets.py:build``.

An entry point runs code, so only the person who starts a command or calls a function names one; it is never read from a bundle.
Imports no torch.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from reslink.errors import UsageError, suggest
from reslink.files import sha256

if TYPE_CHECKING:
    from torch import nn

Builder: TypeAlias = "Callable[..., nn.Module]"
"""A callable ``(in_channels, num_classes, **options)`` that returns a new network."""


def as_builder(network: str | Builder | nn.Module) -> Builder:
    """Returns the callable for a network that the caller gives: an entry point, a callable, or a module, which is copied.

    Raises:
        UsageError: As :func:`load_entry_point`.
    """
    if isinstance(network, str):
        return load_entry_point(network)
    if _is_module(network):
        return lambda *_, **__: copy.deepcopy(network)  # type: ignore[return-value]
    return network


def entry_point_of(network: Builder | nn.Module) -> str:
    """Returns the name under which a callable or module is recorded, ``module:callable``."""
    named = type(network) if _is_module(network) else network
    return f"{getattr(named, '__module__', '__main__')}:{getattr(named, '__qualname__', type(named).__qualname__)}"


def _is_module(network: object) -> bool:
    """Returns whether this is a torch module and not a class of modules; torch may not be imported here."""
    return hasattr(network, "named_parameters") and not isinstance(network, type)


def entry_point_name(entry_point: str) -> str:
    """Returns the short name of an entry point: ``nets.build`` for ``path/nets.py:build``."""
    module, _, attribute = entry_point.rpartition(":")
    stem = Path(module).stem if module.endswith(".py") else module.rpartition(".")[2]
    return f"{stem}.{attribute}"


def load_entry_point(entry_point: str) -> Builder:
    """Imports an entry point and returns its callable. This runs the code of its module.

    Args:
        entry_point: ``package.module:callable``, or ``file.py:callable``. A package is also searched in the working folder.

    Raises:
        UsageError: If the module or the callable does not exist, or the module raises an exception.
    """
    module_name, sign, attribute = entry_point.rpartition(":")
    if not (sign and module_name and attribute):
        raise _unusable(entry_point, "it has no module and callable", "Write package.module:callable or file.py:callable")
    try:
        module = _import_file(Path(module_name)) if module_name.endswith(".py") else _import_module(module_name)
    except Exception as error:  # the code of the user may raise anything
        reason = f"its module cannot be imported ({type(error).__name__}: {error})"
        raise _unusable(entry_point, reason, "Correct the module, or give the path of its file") from error
    builder: Any = module
    for name in attribute.split("."):
        if not hasattr(builder, name):
            raise _unusable(entry_point, f"{module_name} has no {attribute}", suggest(attribute, _public_callables(module)))
        builder = getattr(builder, name)
    if not callable(builder):
        raise _unusable(entry_point, f"{attribute} is not callable", "Name a function or a class")
    return builder  # type: ignore[no-any-return]


def code_digest(entry_point: str) -> str | None:
    """Returns the SHA-256 of the file of an entry point, without what it imports; None if there is no such file."""
    module = entry_point.rpartition(":")[0]
    try:
        with _search_first(str(Path.cwd())):
            spec = None if module.endswith(".py") else importlib.util.find_spec(module)
    except (ImportError, ValueError):  # no such package, or the program itself
        return None
    path = Path(module if spec is None else str(spec.origin))
    return sha256(path) if path.is_file() else None


def _unusable(entry_point: str, reason: str, next_step: str) -> UsageError:
    return UsageError(
        f"The network {entry_point} cannot be used: {reason}",
        "An entry point is a callable (in_channels, num_classes, **options) that returns a torch module",
        next_step,
    )


def _public_callables(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def _import_module(name: str) -> ModuleType:
    with _search_first(str(Path.cwd())):
        return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reslink_entry_point_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _search_first(str(path.resolve().parent)):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _search_first(folder: str) -> Iterator[None]:
    """Lets imports search a folder first."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
