"""The child process that decodes files: ``python -m reslink.imaging.sandbox.worker``, started by ``pool.py``."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray

from reslink.errors import InputError
from reslink.imaging.sandbox import child


def handle(request: dict[str, Any], payload: bytes | None) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Returns the header and the arrays of the response to one request."""
    from reslink.imaging.decode import decode, import_decoder
    from reslink.imaging.limits import ImagingWarning, damaged_error, read_regular_file

    import_decoder(request["file_format"])
    child.start_timers(request["cpu_seconds"], request["wall_seconds"])
    name = str(request["name"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = read_regular_file(request["path"]) if payload is None else payload
            image, geometry = decode(request["file_format"], data, name, request["unit"])
        except InputError as error:
            return {"error": [error.given, error.allowed, error.next_step]}, []
        except Exception as error:  # noqa: BLE001 - any error of a library means a broken file
            damaged = damaged_error(name, f"its content is broken or too large ({type(error).__name__})")
            return {"error": [damaged.given, damaged.allowed, damaged.next_step]}, []
    header = {
        "shape": image.pixels.shape,
        "padding": image.padding is not None,
        "warnings": [str(w.message) for w in caught if w.category is ImagingWarning],
        "geometry": geometry,
        "fields": {
            "unit": image.unit,
            "modality": image.modality,
            "spacing": image.spacing,
            "white": image.white,
            "inverted": image.inverted,
            "window": image.window,
            "orientation": image.orientation,
            "notes": image.notes,
            "excluded": image.excluded,
            "sequence": image.sequence,
            "plane": image.plane,
            "edges": image.edges,
        },
    }
    return header, [image.pixels] if image.padding is None else [image.pixels, image.padding]


if __name__ == "__main__":
    child.run(handle)
