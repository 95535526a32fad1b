"""Packages that can also be called: ``reslink.audit(...)`` calls the function :func:`reslink.api.audit.audit`.

``reslink.audit`` and ``reslink.explain`` are packages. Python binds a package to its parent when one of its modules is
imported, which would replace a function of the same name; so the packages themselves are made callable.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from reslink.parameter_names import with_parameter_names


class CallablePackage(ModuleType):
    """A package whose call runs the function of the same name in :mod:`reslink.api`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function of the same name in :mod:`reslink.api`; see its documentation for the arguments."""
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature of the function, for ``help`` and notebooks."""
        return inspect.signature(self._function())

    def _function(self) -> Callable[..., Any]:
        name = self.__name__.rpartition(".")[2]
        return with_parameter_names(getattr(importlib.import_module(f"reslink.api.{name}"), name))
