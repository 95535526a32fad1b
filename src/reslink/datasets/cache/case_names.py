"""Names in the texts of a shard: another data set may have the same content under other names, so none of them is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from reslink.datasets.case import Case
from reslink.files import sha256

CASE: Final = "{case}"
"""Name of a case in a stored text."""

_OTHER_FILE: Final = "another file"
_FILE: Final = re.compile(r"\{file ([0-9a-f]{16})\}")
_ABSOLUTE_PATH: Final = re.compile(r"(?<![\w:/.}])/[^\s'\",;()]+")


def hide_names(text: str, case: Case) -> str:
    """Returns a text about a case, which calls it ``CASE``, without names of files in its folder and without absolute paths.

    Args:
        text: A message or remark.
        case: The case.

    Returns:
        The text. A file in the folder of a series is named by its content, so that :func:`show_names` finds it.
    """
    for path, name in ((case.mask, f"the mask of {CASE}"), (case.path, CASE)):
        text = text if path is None else text.replace(str(path), name)
    for file in sorted(_files_of(case), key=lambda file: len(file.name), reverse=True):
        start = rf"(?<={re.escape(CASE)}/)" if file.name.isdigit() else r"(?<![\w{])"  # digits may also be a count
        pattern = re.compile(rf"{start}{re.escape(file.name)}(?!\w)")
        if pattern.search(text):
            text = pattern.sub(f"{{file {_content(file)}}}", text)
    return _ABSOLUTE_PATH.sub(_OTHER_FILE, text)


def show_names(text: str, case: Case) -> str:
    """Returns a stored text with the names of a case that has this content."""
    if _FILE.search(text):
        names = {_content(file): file.name for file in _files_of(case)}
        text = _FILE.sub(lambda match: names.get(match[1], _OTHER_FILE), text)
    return text.replace(CASE, case.name)


def _files_of(case: Case) -> Iterator[Path]:
    """Yields the files of a series that is a folder."""
    if case.path.is_dir():
        yield from (file for file in sorted(case.path.iterdir()) if file.is_file())


def _content(file: Path) -> str:
    return sha256(file)[:16]
