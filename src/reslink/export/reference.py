"""The preprocessing as one file that needs NumPy, OpenCV and Pillow alone: cut out of the package, so it cannot fall behind."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reslink import __version__
from reslink.imaging import head_mask, image, morphology, preprocess
from reslink.imaging.image import Image as PackageImage
from reslink.imaging.preprocess import Preprocess

NAME: Final = "preprocess_reference.py"

_MODULES: Final = (image, morphology, head_mask, preprocess)
_FIELDS: Final = ("pixels", "unit", "white", "padding", "inverted")
_LEFT_OUT: Final = {"VERSION", "_as_tuple", "model_config", "_check_percentiles", "digest"}
"""What needs pydantic, or belongs to caches."""

_HEAD: Final = '''\
"""The preprocessing of an exported reslink model, from pixels to its inputs. Research use only; not a medical device.

Cut out of reslink {version} (Apache-2.0). Needs numpy, opencv-python-headless (set to
one thread) and pillow. From Python:

    import preprocess_reference as reference
    image = reference.Image(pixels.astype("float32"), unit="HU")  # "MR", or "grey" with white=255 for 8-bit pictures
    inputs = reference.inputs(image)          # image, keep, box, hounsfield, inverted: a batch of one
    pixels = reference.PREPROCESS.pixels(image)[None]  # uint8, for a model whose input is "pixels"

From a shell: python preprocess_reference.py PICTURE OUT.npz writes all of these.
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
    keep, place = PREPROCESS.isolate(image)
    return {
        "image": image.pixels[None],
        "keep": keep[None],
        "box": np.array([[place.top, place.left, place.height, place.width]], np.int64),
        "hounsfield": np.array([image.unit == "HU"]),
        "inverted": np.array([image.inverted]),
    }


def read_picture(path: str) -> Image:
    """Returns an 8-bit picture; colours become grey."""
    return Image(np.asarray(Picture.open(path).convert("L"), np.float32).copy(), unit="grey", white=255.0, source=path)


if __name__ == "__main__":
    picture = read_picture(sys.argv[1])
    np.savez(sys.argv[2], pixels=PREPROCESS.pixels(picture)[None], **inputs(picture))
'''


def source_of(settings: Preprocess) -> str:
    """Returns the text of ``preprocess_reference.py`` for some settings."""
    imports: set[str] = set()
    parts: list[str] = []
    for module in _MODULES:
        found, body = _split(module, settings)
        imports |= set(found)
        parts += body
    text = "\n\n\n".join(parts) + "\n" + _TAIL
    used = sorted((line for line in imports if _used(line, text)), key=lambda line: (line.startswith("from"), line))
    return _HEAD.format(version=__version__, imports="\n".join(used)) + text


def pixels_of(path: Path, images: Sequence[PackageImage]) -> list[NDArray[np.uint8]]:
    """Returns what a written reference makes of slices, (planes, S, S) uint8 each.

    Args:
        path: The file, which is run as a module of its own.
        images: Slices, as the package reads them.
    """
    spec = importlib.util.spec_from_file_location(f"{path.stem}_under_test", path)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  (a .py file has both)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        return [module.PREPROCESS.pixels(module.Image(**{name: getattr(one, name) for name in _FIELDS})) for one in images]
    finally:
        del sys.modules[spec.name]


def _split(module: ModuleType, settings: Preprocess) -> tuple[list[str], list[str]]:
    """Returns the imports of a module that stay, and its statements; those of reslink and pydantic fall away."""
    text = inspect.getsource(module)
    imports, body = [], []
    statements = ast.parse(text).body[1:]
    own = {name for node in statements for name in _names(node) if name.startswith("_")}
    for node in statements:
        segment = _segment(text, node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            outside = (getattr(node, "module", None) or "").split(".")[0] in ("reslink", "pydantic", "__future__")
            imports += [] if outside else [segment]
        elif isinstance(node, ast.ClassDef) and node.name == Preprocess.__name__:
            body.append(_settings_class(text, node, settings))
        elif not _names(node) & _LEFT_OUT:
            body.append(segment)
    return imports, [_renamed(part, own, module.__name__.rsplit(".", 1)[-1]) for part in body]


def _renamed(text: str, names: set[str], module: str) -> str:
    """Gives the private names of a module its own name, since modules share some."""
    return re.sub(r"(?<![\w.])_\w+", lambda found: f"_{module}{found[0]}" if found[0] in names else found[0], text)


def _used(statement: str, text: str) -> bool:
    """Whether a text uses a name that an import statement binds."""
    [node] = ast.parse(statement).body
    assert isinstance(node, ast.Import | ast.ImportFrom)  # noqa: S101  (only imports are asked about)
    return any(re.search(rf"\b{(name.asname or name.name).split('.')[0]}\b", text) for name in node.names)


def _settings_class(text: str, node: ast.ClassDef, settings: Preprocess) -> str:
    """The class without pydantic: the same methods, and the settings of this model as its fields."""
    fields = [f"    {name}: object = {getattr(settings, name)!r}" for name in Preprocess.model_fields]
    methods = [
        "    " + _segment(text, item)
        for item in node.body
        if isinstance(item, ast.FunctionDef) and not _names(item) & _LEFT_OUT
    ]
    return "\n".join(["@dataclass(frozen=True)", f"class {node.name}:", *fields]) + "\n\n" + "\n\n".join(methods)


def _segment(text: str, node: ast.stmt) -> str:
    """The source of a statement with its decorators."""
    first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno]).strip()


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
