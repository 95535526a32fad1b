"""Generates the preprocessing as one file that only needs NumPy, OpenCV and Pillow, from the source of the package."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink import __version__
from reslink.imaging import head_mask, image, morphology, preprocess, slice_selection
from reslink.imaging.image import Image as PackageImage
from reslink.imaging.preprocess import Preprocess
from reslink.labels import CaseKind

NAME: Final = "preprocess_reference.py"

_MODULES: Final = (image, morphology, head_mask, preprocess)
_FIELDS: Final = ("pixels", "unit", "spacing", "white", "padding", "inverted")
_OMITTED: Final = {"VERSION", "_as_tuple", "model_config", "_check_percentiles", "digest"}
"""Definitions that need pydantic or belong to caches."""

_HEAD: Final = '''\
"""The preprocessing of an exported reslink model, from pixels to its inputs. Research use only; not a medical device.

Copied from reslink {version} (Apache-2.0). Needs numpy, opencv-python-headless (set to
one thread) and pillow. From Python:

    import preprocess_reference as reference
    image = reference.Image(pixels.astype("float32"), unit="HU")  # "MR", or "gray" with white=255 for 8-bit pictures
    inputs = reference.inputs(image)          # image, keep, box, hounsfield, inverted: a batch of one
    pixels = reference.PREPROCESS.pixels(image)[None]  # uint8, for a model whose input is "pixels"

{usage}
"""

from __future__ import annotations

import sys
{imports}

class InputError(ValueError):
    """One image cannot be used."""

'''
_TAIL: Final = '''

PREPROCESS = Preprocess()
"""The preprocessing of this model."""


def inputs(image: Image) -> dict[str, np.ndarray]:
    """Returns the inputs of a model that takes a slice and its head, as a batch of one."""
    image = square_pixels(image)
    keep, box = PREPROCESS.isolate(image)
    return {
        "image": image.pixels[None],
        "keep": keep[None],
        "box": np.array([[box.top, box.left, box.height, box.width]], np.int64),
        "hounsfield": np.array([image.unit == "HU"]),
        "inverted": np.array([image.inverted]),
    }


def read_picture(path: str) -> Image:
    """Returns an 8-bit picture; colors become gray."""
    return Image(np.asarray(Picture.open(path).convert("L"), np.float32).copy(), unit="gray", white=255.0, source=path)
'''
_USAGE: Final[dict[CaseKind, str]] = {
    "slice": "From a shell: python preprocess_reference.py PICTURE OUT.npz writes all of these.",
    "series": """\
The model answers for a series. Its batch holds the slices of one series:

    inputs = reference.inputs_of_series(images)  # all slices of the series; those that show too little of the head are left out

From a shell: python preprocess_reference.py PICTURE... OUT.npz writes the inputs for the slices of one series.""",
}
_MAIN: Final[dict[CaseKind, str]] = {
    "slice": """

if __name__ == "__main__":
    picture = read_picture(sys.argv[1])
    np.savez(sys.argv[2], pixels=PREPROCESS.pixels(picture)[None], **inputs(picture))
""",
    "series": '''

def inputs_of_series(images: list[Image]) -> dict[str, np.ndarray]:
    """Returns the inputs of a model that answers for a series, also ``pixels``, and the ``positions`` of the chosen slices.

    Args:
        images: All slices of one series, ordered by position, of one size.
    """
    positions = select_slices([int(head_mask(image).sum()) for image in images])
    if not positions:
        raise InputError("no slice shows a head")
    slices = [inputs(images[i]) | {"pixels": PREPROCESS.pixels(images[i])[None]} for i in positions]
    batch = {name: np.concatenate([one[name] for one in slices]) for name in slices[0]}
    return batch | {"positions": np.array(positions)}


if __name__ == "__main__":
    np.savez(sys.argv[-1], **inputs_of_series([read_picture(path) for path in sys.argv[1:-1]]))
''',
}


def reference_source(settings: Preprocess, case: CaseKind = "slice") -> str:
    """Returns the text of ``preprocess_reference.py`` for the given settings, and for a model of slices or of series."""
    imports: set[str] = set()
    parts: list[str] = []
    for module in (*_MODULES, *([slice_selection] if case == "series" else [])):
        module_imports, body = _split(module, settings)
        imports |= set(module_imports)
        parts += body
    text = "\n\n\n".join(parts) + "\n" + _TAIL + _MAIN[case]
    used = sorted((line for line in imports if _used(line, text)), key=lambda line: (line.startswith("from"), line))
    return _HEAD.format(version=__version__, imports="\n".join(used), usage=_USAGE[case]) + text


class _NoBytecodeLoader(importlib.machinery.SourceFileLoader):
    """Loads a module without writing ``__pycache__`` beside it, which would be in the export."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        pass


def reference_pixels(path: Path, images: Sequence[PackageImage]) -> list[NDArray[np.uint8]]:
    """Returns the pixels that a written reference computes from slices, (planes, S, S) uint8 each.

    Args:
        path: The file, which is run as a separate module.
        images: Slices as read by the package.
    """
    name = f"{path.stem}_under_test"
    spec = importlib.util.spec_from_file_location(name, path, loader=_NoBytecodeLoader(name, str(path)))
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  (a .py file has both)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module here
    try:
        spec.loader.exec_module(module)
        return [module.PREPROCESS.pixels(module.Image(**{name: getattr(image, name) for name in _FIELDS})) for image in images]
    finally:
        del sys.modules[spec.name]


def _split(module: ModuleType, settings: Preprocess) -> tuple[list[str], list[str]]:
    """Returns the imports of a module, without those of reslink and pydantic, and its other statements."""
    text = inspect.getsource(module)
    imports, body = [], []
    statements = ast.parse(text).body[1:]
    private = {name for node in statements for name in _names(node) if name.startswith("_")}
    for node in statements:
        segment = _segment(text, node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            outside = (getattr(node, "module", None) or "").split(".")[0] in ("reslink", "pydantic", "__future__")
            imports += [] if outside else [segment]
        elif isinstance(node, ast.ClassDef) and node.name == Preprocess.__name__:
            body.append(_settings_class(text, node, settings))
        elif not _names(node) & _OMITTED:
            body.append(segment)
    return imports, [_renamed(part, private, module.__name__.rsplit(".", 1)[-1]) for part in body]


def _renamed(text: str, names: set[str], module: str) -> str:
    """Prefixes the private names of a module with its name, as different modules use the same names."""
    return re.sub(r"(?<![\w.])_\w+", lambda match: f"_{module}{match[0]}" if match[0] in names else match[0], text)


def _used(statement: str, text: str) -> bool:
    """Returns whether a text uses a name that an import statement binds."""
    [node] = ast.parse(statement).body
    assert isinstance(node, ast.Import | ast.ImportFrom)  # noqa: S101  (only called with imports)
    return any(re.search(rf"\b{(name.asname or name.name).split('.')[0]}\b", text) for name in node.names)


def _settings_class(text: str, node: ast.ClassDef, settings: Preprocess) -> str:
    """Returns the class without pydantic: the same methods, with the settings of this model as fields."""
    fields = [f"    {name}: object = {getattr(settings, name)!r}" for name in Preprocess.model_fields]
    methods = [
        "    " + _segment(text, item) for item in node.body if isinstance(item, ast.FunctionDef) and not _names(item) & _OMITTED
    ]
    return "\n".join(["@dataclass(frozen=True)", f"class {node.name}:", *fields]) + "\n\n" + "\n\n".join(methods)


def _segment(text: str, node: ast.stmt) -> str:
    """Returns the source of a statement with its decorators."""
    first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno]).strip()


def _names(node: ast.stmt) -> set[str]:
    """Returns the names that a statement defines."""
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
