"""The computed shapes are those of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from reslink.bundles.onnx_check import GraphCheck, _Sizes

node = helper.make_node


def constant(name: str, value: Any, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


NODES = [
    node("Slice", ["start", "n1", "n9", "n3"], ["a"]),
    node("Slice", ["start", "n0", "n1", "n3"], ["b"]),
    node("Concat", ["a", "b"], ["rolled"], axis=3),
    node("Shape", ["rolled"], ["s"]),
    node("Slice", ["s", "n0", "n1"], ["batch"]),
    node("Concat", ["batch", "parts"], ["sizes"], axis=0),
    node("Reshape", ["rolled", "sizes"], ["windows"]),
    node("Transpose", ["windows"], ["w"], perm=[0, 2, 4, 3, 5, 1]),
    node("Softmax", ["w"], ["soft"], axis=-1),
    node("Expand", ["one", "sizes"], ["e"]),
    node("Tile", ["one", "n3"], ["t"]),
    node("Split", ["start"], ["left", "right"], axis=3),
    node("ReduceSum", ["left", "n3"], ["sum"], keepdims=0),
    node("Squeeze", ["start", "n1"], ["flat"]),
    node("Unsqueeze", ["flat", "n1"], ["deep"]),
    node("MatMul", ["deep", "start"], ["product"]),
    node("Einsum", ["start", "start"], ["scores"], equation="bhxd, bhyd->bhxy"),
    node("Resize", ["start", "", "scales"], ["up"]),
    node("GlobalAveragePool", ["start"], ["g"]),
    node("ConvTranspose", ["start", "kernel"], ["ct"], strides=[2, 2], output_padding=[1, 1]),
    node("AveragePool", ["start"], ["ap"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    node("Pad", ["start", "pads"], ["padded"]),
    node("Flatten", ["start"], ["f"]),
    node("Gemm", ["f", "dense"], ["gemm"], transB=1),
    node("ArgMax", ["gemm"], ["arg"], axis=1, keepdims=0),
    node("Where", ["yes", "start", "one"], ["where"]),
    node("Range", ["r0", "r9", "r1"], ["range"]),
]
SIZES = [
    node("Neg", ["parts"], ["negative"]),
    node("Equal", ["parts", "n1"], ["equal"]),
    node("Not", ["equal"], ["other"]),
    node("Where", ["equal", "negative", "parts"], ["chosen"]),
    node("ReduceProd", ["parts"], ["count"], keepdims=0),
    node("ReduceMax", ["parts"], ["largest"]),
    node("Mod", ["parts", "n3"], ["rest"]),
    node("Pow", ["n3", "parts"], ["power"]),
    node("Max", ["parts", "n3"], ["at_least"]),
    node("Min", ["parts", "n3", "n1"], ["at_most"]),
    node("Less", ["parts", "n3"], ["small"]),
    node("Cast", ["parts"], ["numbers"], to=TensorProto.FLOAT),
    node("Sqrt", ["numbers"], ["root"]),
    node("Floor", ["root"], ["whole"]),
    node("Cast", ["whole"], ["whole_sizes"], to=TensorProto.INT64),
    node("Reshape", ["pads", "pairs"], ["by_axis"]),
    node("Slice", ["by_axis", "n1", "all_but_n9", "n0", "back"], ["reversed"]),
    node("Transpose", ["reversed"], ["by_side"], perm=[1, 0]),
    node("Split", ["by_side"], ["side", "last_side"], axis=0),
    node("Expand", ["n3", "pairs"], ["threes"]),
]
"""How exporters compute sizes, such as the pads of a convolution."""
TENSORS = [
    *(constant(f"n{i}", [i]) for i in (0, 1, 3)),
    constant("n9", [9999]),
    constant("parts", [1, 8, 8, 8, 8]),
    constant("one", [1], np.float32),
    constant("scales", [1, 1, 1.5, 2], np.float32),
    constant("kernel", np.ones((1, 4, 3, 3)), np.float32),
    constant("pads", [0, 0, 1, 2, 0, 0, 3, -4]),
    constant("dense", np.ones((2, 4096)), np.float32),
    constant("yes", [True], np.bool_),
    constant("pairs", [4, 2]),
    constant("all_but_n9", [-9999]),
    constant("back", [-1]),
    *(constant(f"r{i}", i) for i in (0, 1, 9)),
]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_shapes_are_those_of_the_runtime(batch: int) -> None:
    """ONNX Runtime computes every tensor, and its shape is the computed one."""
    names = [name for one in (*NODES, *SIZES) for name in one.output]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "features")]
    ends = [node("ReduceMean", ["start"], ["features"], axes=[2, 3], keepdims=0), node("Identity", ["features"], ["logits"])]
    start = node("Cast", ["pixels"], ["start"], to=TensorProto.FLOAT)
    pixels_info = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 1, 64, 64])
    values += [onnx.ValueInfoProto(name=name) for name in names]
    graph = helper.make_graph([start, *NODES, *SIZES, *ends], "g", [pixels_info], values, TENSORS)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()
    check = GraphCheck(content)
    pixels = np.zeros((batch, 1, 64, 64), np.uint8)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))
    sizes = _Sizes(check._initial, pixels.shape)
    sizes.run(check._model.graph)
    assert {name: sizes.tensors[name].shape for name in names} == {name: value.shape for name, value in found.items()}
    for name in ("s", "batch", "sizes", "range", *(name for one in SIZES for name in one.output)):
        assert np.array_equal(sizes.tensors[name].values, found[name])
