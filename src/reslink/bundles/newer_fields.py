"""Fields that were added to a part of ``bundle.json`` later: they are written only if they have another value than before."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SerializerFunctionWrapHandler


def without_newer_defaults(model: BaseModel, serialize: SerializerFunctionWrapHandler, *names: str) -> dict[str, Any]:
    """Returns the JSON form of a model without some fields if they have their defaults, so that earlier bundles stay the same.

    Args:
        model: The model.
        serialize: What ``model_serializer(mode="wrap")`` passes on.
        *names: The newer fields.
    """
    fields: dict[str, Any] = serialize(model)
    for name in names:
        if getattr(model, name) == type(model).model_fields[name].default:
            fields.pop(name, None)
    return fields
