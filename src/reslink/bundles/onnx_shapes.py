"""The shapes that the operators of image classifiers give their outputs, computed from the shapes of their inputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MAX_KNOWN_VALUES: Final = 4096
"""Values of a tensor that are remembered, as sizes are computed from them."""

TYPES: Final = {1: np.float32, 2: np.uint8, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}
Shape = tuple[int, ...]
Values = NDArray[Any]


class UnknownSizeError(Exception):
    """A shape cannot be computed, or is too large; the message is for the user."""


class SizedTensor:
    """A tensor of known shape; small ones that do not depend on pixels have known values."""

    def __init__(self, shape: Sequence[int], values: Values | None = None) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.values = values if values is not None and values.size <= MAX_KNOWN_VALUES else None

    @classmethod
    def of(cls, tensor: Any) -> SizedTensor:
        """Returns the tensor of a message."""
        shape, kind = tuple(tensor.dims), TYPES.get(tensor.data_type)
        count = math.prod(shape)
        if min(shape, default=0) < 0 or kind is None or count > MAX_KNOWN_VALUES:
            return cls(shape)
        lists = (tensor.int64_data, tensor.int32_data, tensor.float_data, tensor.double_data)
        stored: list[Any] = next((list(values) for values in lists if len(values)), [])
        values: Values = np.frombuffer(tensor.raw_data, kind) if tensor.raw_data else np.array(stored, kind)
        return cls(shape, values.reshape(shape) if values.size == count else None)


def shown(names: Any) -> str:
    """Returns names for a message: the first ones, with escaped control characters. A name that is not UTF-8 is bytes."""
    return ", ".join(map(str, list(names)[:8])).encode("unicode_escape").decode()[:80] or "none"


class Call:
    """One operation with its inputs.

    Attributes:
        name: Name of the operator.
        inputs: The input tensors; None for an omitted one.
        outputs: Number of its outputs.
    """

    def __init__(self, node: Any, tensors: Mapping[str, SizedTensor]) -> None:
        self.name, self.outputs = str(node.op_type), len(node.output)
        self.attributes = {attribute.name: attribute for attribute in node.attribute}
        self.inputs: list[SizedTensor | None] = []
        for name in node.input:
            if name and name not in tensors:
                raise UnknownSizeError(f"the tensor {shown([name])} is used before it is computed")
            self.inputs.append(tensors.get(name))

    def tensor(self, index: int = 0) -> SizedTensor:
        """Returns an input that must be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise UnknownSizeError(f"an operation {self.name} lacks an input")
        return found

    def shape(self, index: int = 0) -> Shape:
        """Returns the shape of an input that must be there."""
        return self.tensor(index).shape

    def has(self, index: int) -> bool:
        """Returns whether an input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None and self.shape(index) != (0,)

    def values(self, index: int) -> list[Any]:
        """Returns the values of an input that must not depend on pixels."""
        values = self.tensor(index).values
        if values is None:
            raise UnknownSizeError(f"a size in an operation {self.name} depends on the pixels, or is not a short list")
        return list(values.reshape(-1).tolist())

    def integer(self, name: str, default: int) -> int:
        """Returns an attribute."""
        return int(self.attributes[name].i) if name in self.attributes else default

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """Returns an attribute that is a list."""
        return list(self.attributes[name].ints) if name in self.attributes else list(default)

    def text(self, name: str, default: str) -> str:
        """Returns an attribute."""
        return self.attributes[name].s.decode("ascii", "replace") if name in self.attributes else default

    def axes(self, index: int = 1) -> list[int]:
        """Returns the axes that are an attribute in older operator sets, and an input in newer ones."""
        return [int(axis) for axis in self.values(index)] if self.has(index) else self.integers("axes")


Rule = Callable[[Call], list[SizedTensor]]


def work_per_value(call: Call) -> float:
    """Returns the number of multiplications for one value of the output."""
    if call.name in ("Conv", "ConvTranspose"):
        weight = call.shape(1)
        return math.prod(weight[1:] if call.name == "Conv" else (weight[0], *weight[2:]))
    if call.name in ("MatMul", "Gemm"):
        return call.shape()[-1 if call.name == "MatMul" or not call.integer("transA", 0) else 0] if call.shape() else 1
    if call.name == "Einsum":
        sizes, output = _einsum_sizes(call)
        return math.prod(size for letter, size in sizes.items() if letter not in output)
    if call.name in ("MaxPool", "AveragePool"):
        return math.prod(call.integers("kernel_shape"))
    reduced = math.prod(call.shape()) if call.name.startswith(("Reduce", "Global", "Arg")) else 1
    return float(max(1, reduced))


def _same(call: Call) -> list[SizedTensor]:
    return [SizedTensor(call.shape())] * call.outputs


def _identity(call: Call) -> list[SizedTensor]:
    return [call.tensor()]


def _cast(call: Call) -> list[SizedTensor]:
    values, kind = call.tensor().values, TYPES.get(call.integer("to", 0))
    return [SizedTensor(call.shape(), None if values is None or kind is None else values.astype(kind))]


_ARITHMETIC: Final[dict[str, Callable[..., Any]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda a, b: a // b if a.dtype.kind in "iu" else a / b,
    "Mod": np.mod,
    "Pow": lambda a, b: np.power(a, b).astype(a.dtype),
    "Where": np.where,
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "LessOrEqual": np.less_equal,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Min": lambda *values: functools.reduce(np.minimum, values),
    "Max": lambda *values: functools.reduce(np.maximum, values),
    **{"Abs": np.abs, "Neg": np.negative, "Not": np.logical_not, "Sign": np.sign, "Sqrt": np.sqrt},
    **{"Floor": np.floor, "Ceil": np.ceil, "Round": np.round},
}
"""The operators with which exporters compute sizes."""


def _broadcast(call: Call) -> list[SizedTensor]:
    shape = np.broadcast_shapes(*(tensor.shape for tensor in call.inputs if tensor is not None))
    known = [tensor.values for tensor in call.inputs if tensor is not None and tensor.values is not None]
    if len(known) < len(call.inputs) or call.name not in _ARITHMETIC or math.prod(shape) > MAX_KNOWN_VALUES:
        return [SizedTensor(shape)]
    with np.errstate(all="ignore"):
        return [SizedTensor(shape, np.asarray(_ARITHMETIC[call.name](*known)))]


def _window(call: Call) -> list[SizedTensor]:
    """Convolution and pooling."""
    batch, channels, *sizes = call.shape()
    is_convolution = call.name == "Conv"
    kernel = list(call.shape(1)[2:]) if is_convolution else call.integers("kernel_shape")
    ones = [1] * len(sizes)
    pads, strides, dilations = (
        call.integers("pads", [0] * 2 * len(sizes)),
        call.integers("strides", ones),
        call.integers("dilations", ones),
    )
    if len(kernel) != len(sizes):
        raise ValueError
    out = []
    for i, size in enumerate(sizes):
        if call.text("auto_pad", "NOTSET") != "NOTSET":
            out.append(-(-size // strides[i]))
            continue
        span = size + pads[i] + pads[i + len(sizes)] - dilations[i] * (kernel[i] - 1) - 1
        out.append((-(-span // strides[i]) if call.integer("ceil_mode", 0) else span // strides[i]) + 1)
    return [SizedTensor((batch, call.shape(1)[0] if is_convolution else channels, *out))] * min(call.outputs, 2)


def _conv_transpose(call: Call) -> list[SizedTensor]:
    batch, _, *sizes = call.shape()
    weight, ones = call.shape(1), [1] * len(sizes)
    strides, dilations, extra = (
        call.integers("strides", ones),
        call.integers("dilations", ones),
        call.integers("output_padding", [0] * len(sizes)),
    )
    out = [(size - 1) * strides[i] + dilations[i] * (weight[2 + i] - 1) + 1 + extra[i] for i, size in enumerate(sizes)]
    stated = call.integers("output_shape")
    return [
        SizedTensor(
            (batch, weight[1] * call.integer("group", 1), *(max(pair) for pair in zip(out, stated or out, strict=True)))
        )
    ]


def _global_pool(call: Call) -> list[SizedTensor]:
    return [SizedTensor((*call.shape()[:2], *(1 for _ in call.shape()[2:])))]


def _reduce(call: Call) -> list[SizedTensor]:
    shape, rank = call.shape(), len(call.shape())
    axes = [call.integer("axis", 0)] if call.name.startswith("Arg") else call.axes()
    if not axes and call.integer("noop_with_empty_axes", 0):
        return [SizedTensor(shape)]
    chosen = {_axis(axis, rank) for axis in axes} or set(range(rank))
    keep, values = bool(call.integer("keepdims", 1)), call.tensor().values
    reduced = [1 if i in chosen else size for i, size in enumerate(shape) if keep or i not in chosen]
    if values is None or call.name not in _REDUCTIONS:
        return [SizedTensor(reduced)]
    return [SizedTensor(reduced, np.asarray(_REDUCTIONS[call.name](values, axis=tuple(chosen), keepdims=keep)))]


_REDUCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
}


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError
    return axis % rank


def _gemm(call: Call) -> list[SizedTensor]:
    a, b = call.shape(0), call.shape(1)
    a, b = a[:: -1 if call.integer("transA", 0) else 1], b[:: -1 if call.integer("transB", 0) else 1]
    if a[1] != b[0]:
        raise ValueError
    return [SizedTensor((a[0], b[1]))]


def _matmul(call: Call) -> list[SizedTensor]:
    a, b = call.shape(0), call.shape(1)
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ValueError
    return [SizedTensor((*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]))]


def _einsum(call: Call) -> list[SizedTensor]:
    sizes, output = _einsum_sizes(call)
    return [SizedTensor([sizes[letter] for letter in output])]


def _einsum_sizes(call: Call) -> tuple[dict[str, int], str]:
    """Returns the size of each index of a product of two tensors, and the output's indices; none repeats in a tensor."""
    terms, _, output = call.text("equation", "").replace(" ", "").partition("->")
    first, second = terms.split(",")
    sizes: dict[str, int] = {}
    for term, shape in ((first, call.shape(0)), (second, call.shape(1))):
        for letter, size in zip(term, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError
    if not output or not all(term.isalpha() and len(set(term)) == len(term) for term in (first, second, output)):
        raise ValueError
    if set(output) - set(sizes):
        raise ValueError
    return sizes, output


def _reshape(call: Call) -> list[SizedTensor]:
    sizes, shape = [int(size) for size in call.values(1)], call.shape()
    if not call.integer("allowzero", 0):
        sizes = [shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    count, rest = math.prod(shape), math.prod(size for size in sizes if size != -1)
    sizes = [count // rest if size == -1 else size for size in sizes]
    return [_reshaped(call, sizes)]


def _reshaped(call: Call, sizes: Sequence[int]) -> SizedTensor:
    values = call.tensor().values
    if math.prod(sizes) != math.prod(call.shape()):
        raise ValueError
    return SizedTensor(sizes, None if values is None else values.reshape(tuple(sizes)))


def _flatten(call: Call) -> list[SizedTensor]:
    axis, shape = call.integer("axis", 1), call.shape()
    return [SizedTensor((math.prod(shape[:axis]), math.prod(shape[axis:])))]


def _transpose(call: Call) -> list[SizedTensor]:
    shape = call.shape()
    order = call.integers("perm", list(range(len(shape)))[::-1])
    if sorted(order) != list(range(len(shape))):
        raise ValueError
    values = call.tensor().values
    return [SizedTensor([shape[i] for i in order], None if values is None else values.transpose(order))]


def _squeeze(call: Call) -> list[SizedTensor]:
    shape = call.shape()
    axes = {_axis(axis, len(shape)) for axis in call.axes()} or {i for i, size in enumerate(shape) if size == 1}
    return [_reshaped(call, [size for i, size in enumerate(shape) if i not in axes])]


def _unsqueeze(call: Call) -> list[SizedTensor]:
    sizes, axes = list(call.shape()), call.axes()
    rank = len(sizes) + len(axes)
    for axis in sorted(_axis(axis, rank) for axis in axes):
        sizes.insert(axis, 1)
    return [_reshaped(call, sizes)]


def _expand(call: Call) -> list[SizedTensor]:
    shape, values = np.broadcast_shapes(call.shape(), tuple(int(size) for size in call.values(1))), call.tensor().values
    known = values is not None and math.prod(shape) <= MAX_KNOWN_VALUES
    return [SizedTensor(shape, np.broadcast_to(values, shape) if known and values is not None else None)]


def _tile(call: Call) -> list[SizedTensor]:
    return [SizedTensor([size * int(n) for size, n in zip(call.shape(), call.values(1), strict=True)])]


def _concat(call: Call) -> list[SizedTensor]:
    shapes = [call.shape(i) for i in range(len(call.inputs))]
    axis = _axis(call.integer("axis", 0), len(shapes[0]))
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) != 1:
        raise ValueError
    shape = [*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :]]
    known = [call.tensor(i).values for i in range(len(shapes))]
    parts = [values for values in known if values is not None]
    fits = len(parts) == len(known) and math.prod(shape) <= MAX_KNOWN_VALUES
    return [SizedTensor(shape, np.concatenate(parts, axis) if fits else None)]


def _split(call: Call) -> list[SizedTensor]:
    shape = call.shape()
    axis = _axis(call.integer("axis", 0), len(shape))
    stated = [int(size) for size in call.values(1)] if call.has(1) else call.integers("split")
    each = -(-shape[axis] // call.outputs)
    sizes = stated or [min(each, shape[axis] - i * each) for i in range(call.outputs)]
    if sum(sizes) != shape[axis]:
        raise ValueError
    values = call.tensor().values
    parts = [None] * len(sizes) if values is None else np.split(values, np.cumsum(sizes)[:-1], axis)
    return [SizedTensor([*shape[:axis], size, *shape[axis + 1 :]], part) for size, part in zip(sizes, parts, strict=True)]


def _slice(call: Call) -> list[SizedTensor]:
    shape = call.shape()
    if len(call.inputs) > 1:
        starts, ends = call.values(1), call.values(2)
        axes = call.values(3) if call.has(3) else range(len(starts))
        steps = call.values(4) if call.has(4) else [1] * len(starts)
    else:
        starts, ends = call.integers("starts"), call.integers("ends")
        axes, steps = call.integers("axes", range(len(starts))), [1] * len(starts)
    cuts = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        reversed_to_start = step < 0 and end < -shape[_axis(axis, len(shape))]
        cuts[_axis(axis, len(shape))] = slice(start, None if reversed_to_start else end, step)
    values = call.tensor().values
    sizes = [len(range(*cut.indices(size))) for cut, size in zip(cuts, shape, strict=True)]
    return [SizedTensor(sizes, None if values is None else values[tuple(cuts)])]


def _gather(call: Call) -> list[SizedTensor]:
    shape, indices = call.shape(), call.tensor(1)
    axis = _axis(call.integer("axis", 0), len(shape))
    values = call.tensor().values
    known = None if values is None or indices.values is None else np.take(values, indices.values, axis)
    return [SizedTensor((*shape[:axis], *indices.shape, *shape[axis + 1 :]), known)]


def _pad(call: Call) -> list[SizedTensor]:
    shape = call.shape()
    pads = call.values(1) if call.has(1) else call.integers("pads")
    axes = [_axis(int(axis), len(shape)) for axis in call.values(3)] if call.has(3) else list(range(len(shape)))
    sizes = list(shape)
    for i, axis in enumerate(axes):
        sizes[axis] += int(pads[i]) + int(pads[i + len(axes)])
    return [SizedTensor(sizes)]


def _resize(call: Call) -> list[SizedTensor]:
    shape = list(call.shape())
    sizes = call.values(3) if call.has(3) else None
    scales = None if sizes else call.values(1 if call.name == "Upsample" else 2)
    axes = [_axis(axis, len(shape)) for axis in call.integers("axes", range(len(shape)))]
    for axis, value in zip(axes, sizes or scales or [], strict=True):
        shape[axis] = int(value) if sizes else math.floor(shape[axis] * value)
    return [SizedTensor(shape)]


def _blocks(call: Call) -> list[SizedTensor]:
    batch, channels, height, width = call.shape()
    size = call.integer("blocksize", 0)
    if call.name == "DepthToSpace":
        return [SizedTensor((batch, channels // size**2, height * size, width * size))]
    return [SizedTensor((batch, channels * size**2, height // size, width // size))]


def _shape_of(call: Call) -> list[SizedTensor]:
    shape = call.shape()
    if call.name == "Size":
        return [SizedTensor((), np.array(math.prod(shape)))]
    cut = shape[call.integer("start", 0) : call.integer("end", len(shape))]
    return [SizedTensor((len(cut),), np.array(cut, np.int64))]


def _constant(call: Call) -> list[SizedTensor]:
    for name, attribute in call.attributes.items():
        if name == "value":
            return [SizedTensor.of(attribute.t)]
        values = {"value_int": attribute.i, "value_float": attribute.f}.get(
            name, list(attribute.ints) or list(attribute.floats)
        )
        return [SizedTensor(np.shape(values), np.asarray(values))]
    raise ValueError


def _constant_of_shape(call: Call) -> list[SizedTensor]:
    shape = [int(size) for size in call.values(0)]
    if math.prod(shape) > MAX_KNOWN_VALUES or min(shape, default=0) < 0:
        return [SizedTensor(shape)]
    filled = SizedTensor.of(call.attributes["value"].t).values if "value" in call.attributes else np.zeros(1, np.float32)
    return [SizedTensor(shape, None if filled is None else np.full(shape, filled.reshape(-1)[0]))]


def _range(call: Call) -> list[SizedTensor]:
    start, limit, step = (call.values(i)[0] for i in range(3))
    count = max(0, math.ceil((limit - start) / step))
    return [SizedTensor((count,), np.arange(start, limit, step) if count <= MAX_KNOWN_VALUES else None)]


def _names(text: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(text.split(), rule)


RULES: Final[dict[str, Rule]] = {
    **_names("Clip Cos Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log LogSoftmax LRN Mish", _same),
    **_names("Reciprocal Relu Selu Sigmoid Sin Softmax Softplus Softsign Tanh ThresholdedRelu Trilu", _same),
    **_names("Abs Ceil Floor Neg Not Round Sign Sqrt", _broadcast),
    **_names("QuantizeLinear DequantizeLinear", _same),
    **_names("GroupNormalization InstanceNormalization LpNormalization MeanVarianceNormalization CumSum ScatterND", _same),
    **_names("BatchNormalization LayerNormalization Dropout IsNaN IsInf", lambda call: [SizedTensor(call.shape())]),
    **_names(
        "Add Sub Mul Div Pow Min Max Mean Sum Mod Where Equal Less Greater LessOrEqual GreaterOrEqual And Or PRelu", _broadcast
    ),
    **_names("Conv MaxPool AveragePool", _window),
    **_names("GlobalAveragePool GlobalMaxPool", _global_pool),
    **_names("ReduceMean ReduceMax ReduceMin ReduceSum ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ArgMax ArgMin", _reduce),
    **_names("Resize Upsample", _resize),
    **_names("DepthToSpace SpaceToDepth", _blocks),
    **_names("Shape Size", _shape_of),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "Identity": _identity,
    "MatMul": _matmul,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""How the allowed operators get the shapes of their outputs. None has a subgraph or a size that depends on values."""
