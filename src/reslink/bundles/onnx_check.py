"""Checks an ONNX model before a runtime sees it: operators, sizes and work, so that no model loops or fills the memory.

A bundle may come from anywhere, and the runtimes execute every graph that is valid: an endless loop, a tensor of 32 GiB, a file
beside the model. Only operators of feed-forward image classifiers are allowed here, without subgraphs, and the shape of every
tensor is computed from the shape of the input. A shape that depends on pixel values, or cannot be computed, is refused.

The model is parsed by protobuf, a dependency of ONNX Runtime, as the package onnx need not be installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from reslink.bundles.onnx_graph import FEATURES, LOGITS, PIXELS
from reslink.bundles.onnx_shapes import RULES, Call, Shape, SizedTensor, UnknownSizeError, shown, work_per_value
from reslink.errors import BundleError
from reslink.files import optional_import

MAX_NODES: Final = 20_000
MAX_TENSOR_VALUES: Final = 1 << 25
"""Values of one tensor for one slice: 128 MiB as float32."""
MAX_LIVE_VALUES: Final = 1 << 28
"""Values of the tensors that are needed at the same time: 1 GiB. A larger batch runs in parts."""
MAX_OPERATIONS: Final = 2e11
"""Multiplications for one slice; the largest common classifiers need a fifth of it."""
OPSETS: Final = range(9, 27)

_UINT8: Final = 2
_BYTES: Final = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of a value by its type in ``TensorProto.DataType``."""

_FIELDS: Final = {
    "Model": "ir_version:1:int64 graph:7:Graph opset_import:8:Opset* training_info:20:bytes* functions:25:bytes*",
    "Opset": "domain:1:string version:2:int64",
    "Graph": "node:1:Node* initializer:5:Tensor* input:11:Value* output:12:Value* sparse_initializer:15:bytes*",
    "Value": "name:1:string type:2:Type",
    "Type": "tensor_type:1:TensorType",
    "TensorType": "elem_type:1:int32 shape:2:Shape",
    "Shape": "dim:1:Dim*",
    "Dim": "dim_value:1:int64 dim_param:2:string",
    "Node": "input:1:string* output:2:string* op_type:4:string attribute:5:Attribute* domain:7:string",
    "Attribute": "name:1:string f:2:float i:3:int64 s:4:bytes t:5:Tensor g:6:bytes floats:7:float* ints:8:int64* "
    "graphs:11:bytes* type:20:int32 sparse_tensor:22:bytes sparse_tensors:23:bytes*",
    "Tensor": "dims:1:int64* data_type:2:int32 float_data:4:float* int32_data:5:int32* int64_data:7:int64* name:8:string "
    "raw_data:9:bytes double_data:10:double* external_data:13:bytes* data_location:14:int32",
}
"""The fields of the messages of ``onnx.proto`` that are read: name, number, type, and a star if repeated."""


class GraphCheck:
    """A parsed ONNX model, whose sizes can be computed.

    Args:
        content: The file.
        path: Its path, for messages.

    Attributes:
        slice_shape: Sizes of the input for one slice, or for the batch that the model demands.

    Raises:
        BundleError: If it is not an ONNX model, has a forbidden operator, input or part, or is too large for one slice.
    """

    def __init__(self, content: bytes, path: Path | str = "model.onnx") -> None:
        self._path = path
        try:
            self._model = _message_class().FromString(content)
        except Exception as error:  # DecodeError of the implementation of protobuf in use
            raise self._refusal("it is not an ONNX model") from error
        if fault := _structure_fault(self._model):
            raise self._refusal(fault)
        self._initial = {tensor.name: SizedTensor.of(tensor) for tensor in self._model.graph.initializer}
        self._live: dict[Shape, int] = {}
        batch, *image = _input_sizes(self._model)
        self.slice_shape: Shape = (batch or 1, *image)
        self.rows_at_once(self.slice_shape)

    def rows_at_once(self, shape: Shape) -> int:
        """Returns how many slices of a batch can run at once in the memory of ``MAX_LIVE_VALUES``, at least 1.

        Args:
            shape: Sizes of the input, (B, planes, S, S).

        Raises:
            BundleError: If a tensor, the memory or the work for one slice is too large, or a shape cannot be computed.
        """
        rows = max(1, shape[0])
        while (live := self._live_values((rows, *shape[1:]))) > MAX_LIVE_VALUES and rows > 1:
            rows = (rows + 1) // 2
        if live > MAX_LIVE_VALUES:
            raise self._refusal(f"it needs {live:.3g} values at the same time")
        return rows

    def _live_values(self, shape: Shape) -> int:
        """Returns the largest number of values that are needed at the same time; each shape is computed once."""
        if shape not in self._live:
            try:
                self._live[shape] = _Sizes(self._initial, shape).run(self._model.graph)
            except UnknownSizeError as error:
                raise self._refusal(str(error)) from None
        return self._live[shape]

    def _refusal(self, reason: str) -> BundleError:
        return BundleError(
            f"{self._path} cannot be used: {reason}",
            "The ONNX model of a bundle is an image classifier in one file, without loops and with tensors of known size",
            "Use a bundle from a source that you trust, or export the model again; --backend torch does not use this file",
        )


@cache
def _message_class() -> Any:
    """Returns the class of a model, from the fields above."""
    descriptors: Any = optional_import("google.protobuf.descriptor_pb2", "onnx")
    pools: Any = optional_import("google.protobuf.descriptor_pool", "onnx")
    factory: Any = optional_import("google.protobuf.message_factory", "onnx")
    file = descriptors.FileDescriptorProto(name="reslink_onnx.proto", package="reslink_onnx", syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            field_name, number, kind = text.split(":")
            field = message.field.add(name=field_name, number=int(number))
            field.label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            field.type = getattr(field, f"TYPE_{kind.upper()}", field.TYPE_MESSAGE)
            if kind in _FIELDS:
                field.type, field.type_name = field.TYPE_MESSAGE, f".reslink_onnx.{kind}"
    pool = pools.DescriptorPool()
    pool.Add(file)
    return factory.GetMessageClass(pool.FindMessageTypeByName("reslink_onnx.Model"))


def _structure_fault(model: Any) -> str:
    """Returns what is wrong with the parts of a model; empty if nothing is."""
    graph = model.graph
    versions = {opset.domain: opset.version for opset in model.opset_import}
    inputs = [value.name for value in graph.input if value.name not in {tensor.name for tensor in graph.initializer}]
    if set(versions) - {"", "ai.onnx"} or not all(version in OPSETS for version in versions.values()) or not versions:
        return f"it needs the operator sets {shown(f'{name or chr(39) * 2} {number}' for name, number in versions.items())}"
    if len(model.functions) or len(model.training_info) or len(graph.sparse_initializer):
        return "it has functions, training steps or sparse tensors"
    if inputs != [PIXELS]:
        return f"its inputs are {shown(inputs)}, not {PIXELS}"
    sizes, kind = (
        _input_sizes(model),
        graph.input[[value.name for value in graph.input].index(PIXELS)].type.tensor_type.elem_type,
    )
    if kind != _UINT8 or len(sizes) != 4 or min(sizes[1:]) < 1:
        return f"its input has the type {kind} and the sizes {sizes}, not uint8 and four sizes with a free batch"
    if missing := {LOGITS, FEATURES} - {value.name for value in graph.output}:
        return f"it has no output {shown(sorted(missing))}"
    if len(graph.node) > MAX_NODES:
        return f"it has {len(graph.node)} operations, more than {MAX_NODES}"
    faults = [*map(_tensor_fault, graph.initializer), *map(_node_fault, graph.node)]
    return next(filter(None, faults), "")


def _input_sizes(model: Any) -> list[int]:
    """Returns the sizes of the input, 0 for one that is free."""
    value = next(value for value in model.graph.input if value.name == PIXELS)
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _tensor_fault(tensor: Any) -> str:
    if tensor.data_location != 0 or len(tensor.external_data):
        return "it stores a tensor in another file"
    lists = (tensor.float_data, tensor.double_data, tensor.int32_data, tensor.int64_data)
    size, count = _BYTES.get(tensor.data_type, 0), math.prod(tensor.dims)
    stored = len(tensor.raw_data) // size if size and tensor.raw_data else sum(map(len, lists))
    if not size or min(tensor.dims, default=0) < 0 or stored != count:
        return f"it has a tensor of the type {tensor.data_type} with {stored} of {count:.3g} values"
    return ""


def _node_fault(node: Any) -> str:
    if node.domain not in ("", "ai.onnx") or node.op_type not in RULES:
        return f"it uses the operator {shown([f'{node.domain}.{node.op_type}'.strip('.')])}, which no image classifier needs"
    for attribute in node.attribute:
        if attribute.HasField("g") or len(attribute.graphs):
            return f"it uses {node.op_type} with a graph of its own"
        if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
            return "it has sparse tensors"
        if attribute.HasField("t") and (fault := _tensor_fault(attribute.t)):
            return fault
    return ""


class _Sizes:
    """Computes the shapes of all tensors, and the values that are needed at the same time."""

    def __init__(self, initial: Mapping[str, SizedTensor], shape: Shape) -> None:
        self.tensors = {**initial, PIXELS: SizedTensor(shape)}
        self.batch, self.live, self.operations = shape[0], 0, 0.0

    def run(self, graph: Any) -> int:
        """Computes the outputs of all operations, which are stored in the order of their execution.

        Returns:
            The largest number of values that are needed at the same time.
        """
        largest, last_uses = 0, _last_uses(graph)
        for i, node in enumerate(graph.node):
            call = Call(node, self.tensors)
            try:
                self._run(call, list(node.output))
            except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
                raise UnknownSizeError(f"the sizes of an operation {call.name} do not fit") from error
            largest = max(largest, self.live)
            self.live -= sum(math.prod(self.tensors[name].shape) for name in last_uses.get(i, ()))
        return largest

    def _run(self, call: Call, names: list[str]) -> None:
        outputs = RULES[call.name](call)
        if any(names[len(outputs) :]):
            raise UnknownSizeError(f"an operation {call.name} has more outputs than an image classifier needs")
        for name, tensor in zip(names, outputs, strict=False):
            self._count(call, tensor)
            if name:
                self.tensors[name] = tensor

    def _count(self, call: Call, tensor: SizedTensor) -> None:
        count = math.prod(tensor.shape)
        if min(tensor.shape, default=0) < 0 or count > MAX_TENSOR_VALUES * self.batch:
            raise UnknownSizeError(f"an operation {call.name} makes a tensor of {count:.3g} values")
        self.live += count
        self.operations += count * work_per_value(call)
        if self.operations > MAX_OPERATIONS * self.batch:
            raise UnknownSizeError(f"it needs {self.operations:.3g} multiplications")


def _last_uses(graph: Any) -> dict[int, list[str]]:
    """Returns the computed tensors that are not needed after an operation, by its position; outputs are needed to the end."""
    last = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    last |= {name: i for i, node in enumerate(graph.node) for name in node.input if name in last}
    uses: dict[int, list[str]] = {}
    for name in last.keys() - {value.name for value in graph.output}:
        uses.setdefault(last[name], []).append(name)
    return uses
