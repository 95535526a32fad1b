"""Errors of the Python functions name parameters, such as ``out=…``, where the command names options, such as ``--out``."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection
from typing import ParamSpec, TypeVar

from reslink.errors import ReslinkError

P = ParamSpec("P")
R = TypeVar("R")

_OPTION = re.compile(
    r"(?P<command>\breslink(?: [a-z]+)+(?: [A-Z]+| --[a-z-]+(?: [\w./]+)?)*)"  # a command to type stays as it is
    r"|--set (?P<setting>'[^']*'|\S*[^\s,.])"
    r"|(?P<lead>\b(?:[Uu]se|with|or) )--(?!set )(?P<name>[a-z-]+) (?P<value>(?!or )[^,]+?)(?=, |$)"
    r"|--(?P<alone>[a-z][a-z-]*)"
)


def with_parameter_names(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function with errors that name its parameters instead of the options of the command."""
    parameters = inspect.signature(function).parameters.values()
    names = {parameter.name for parameter in parameters}
    flags = {parameter.name for parameter in parameters if isinstance(parameter.default, bool)}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ReslinkError as error:
            error.args = tuple(name_parameters(part, names, flags) for part in (error.given, error.allowed, error.next_step))
            error.given, error.allowed, error.next_step = error.args
            raise
        except KeyboardInterrupt as error:  # a training that was stopped says how to resume it
            error.args = tuple(name_parameters(str(part), names, flags) for part in error.args)
            raise

    return call


def name_parameters(text: str, names: Collection[str], flags: Collection[str] = ()) -> str:
    """Returns a message with parameters of a Python function in place of options.

    Args:
        text: The message.
        names: The parameters. Options of other names stay as they are.
        flags: Those of them that are True or False.

    Returns:
        ``--keep-given`` becomes ``keep_given=True``; ``--out`` becomes ``out=…``, ``Use --device cpu`` becomes
        ``Use device='cpu'``, and ``--set seed=1`` becomes ``settings=['seed=1']``.
    """

    def replace(match: re.Match[str]) -> str:
        if match["command"]:
            return match[0]
        if match["setting"]:
            return f"settings=[{match['setting'].strip(chr(39))!r}]" if "settings" in names else match[0]
        lead, value = match["lead"] or "", match["value"]
        option = match["name"] or match["alone"]
        name = option.replace("-", "_")
        if name not in names or name in flags:
            changed = f"{name}=True" if name in flags else f"--{option}"
            return f"{lead}{changed}" + (f" {name_parameters(value, names, flags)}" if value else "")
        return f"{lead}{name}={value!r}" if value else f"{lead}{name}=…"

    return _OPTION.sub(replace, text)
