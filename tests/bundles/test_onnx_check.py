"""A hostile ONNX model is refused before a runtime sees it, at once and in little memory; ordinary classifiers pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reslink.bundles.onnx_check import MAX_LIVE_VALUES, GraphCheck
from reslink.errors import BundleError

SHIPPED = Path(__file__).parents[2] / "src" / "reslink" / "bundles" / "shipped"
node = helper.make_node


def constant(name: str, value: Any, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


def model(
    nodes: list[onnx.NodeProto],
    *tensors: onnx.TensorProto,
    change: Callable[[onnx.ModelProto], None] | None = None,
    size: int = 64,
) -> bytes:
    """A model whose operations make ``x`` from ``start``, the pixels as numbers."""
    made = helper.make_model(
        helper.make_graph(
            [
                node("Cast", ["pixels"], ["start"], to=TensorProto.FLOAT),
                *nodes,
                node("ReduceMean", ["start"], ["features"], axes=[2, 3], keepdims=0),
                node("Identity", ["features"], ["logits"]),
            ],
            "g",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 1, size, size])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "features")],
            list(tensors),
        ),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    if change is not None:
        change(made)
    return bytes(made.SerializeToString())


def body(*names: str) -> onnx.GraphProto:
    values = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in names]
    return helper.make_graph(
        [node("Identity", [names[-1]], ["again"])],
        "body",
        values,
        [helper.make_tensor_value_info("again", TensorProto.BOOL, [])],
    )


def add_function(made: onnx.ModelProto) -> None:
    made.functions.append(
        helper.make_function(
            "own", "Again", ["a"], ["b"], [node("Again", ["a"], ["b"], domain="own")], [helper.make_opsetid("own", 1)]
        )
    )


def add_external(made: onnx.ModelProto) -> None:
    tensor = made.graph.initializer.add(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def add_external_attribute(made: onnx.ModelProto) -> None:
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/dev/zero")
    made.graph.node.append(node("Constant", [], ["w"], value=tensor))


def add_empty_tensor(made: onnx.ModelProto) -> None:
    made.graph.initializer.add(name="w", dims=[1 << 40], data_type=TensorProto.FLOAT)


def add_graphs(made: onnx.ModelProto) -> None:
    made.graph.node[1].attribute.append(helper.make_attribute("bodies", [body("a")]))


def add_sparse_attribute(made: onnx.ModelProto) -> None:
    made.graph.node[0].attribute.add(name="s").sparse_tensor.CopyFrom(onnx.SparseTensorProto())


def rename_input(made: onnx.ModelProto) -> None:
    made.graph.input[0].name = made.graph.node[0].input[0] = "image"


def add_input(made: onnx.ModelProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def doubled(times: int) -> list[onnx.NodeProto]:
    names = ["start", *(f"d{i}" for i in range(times))]
    return [node("Concat", [a, a], [b], axis=3) for a, b in pairwise(names)]


def large_tensors(count: int) -> list[onnx.NodeProto]:
    return [node("Pad", ["start", "pads"], [f"x{i}"]) for i in range(count)]


HUGE = [8, 1024, 1024, 1024]
HOSTILE: dict[str, tuple[bytes, str]] = {
    "endless loop": (
        model([node("Loop", ["", "yes"], ["x"], body=body("i", "c"))], constant("yes", True, np.bool_)),
        "operator Loop",
    ),
    "scan": (model([node("Scan", ["start"], ["x"], body=body("a"), num_scan_inputs=1)]), "operator Scan"),
    "branch": (model([node("If", ["c"], ["x"], then_branch=body("a"), else_branch=body("a"))]), "operator If"),
    "graph in an allowed operator": (model([node("Relu", ["start"], ["x"], body=body("a"))]), "a graph of its own"),
    "function": (model([], change=add_function), "functions"),
    "unknown operator": (model([node("Nonsense", ["start"], ["x"])]), "operator Nonsense"),
    "unprintable operator": (model([node("\x1b[2J\n", ["start"], ["x"])]), r"operator \\x1b\[2J\\n,"),
    "custom domain": (model([node("Relu", ["start"], ["x"], domain="evil")]), "operator evil.Relu"),
    "custom operator set": (model([], change=lambda m: m.opset_import.append(helper.make_opsetid("evil", 1))), "operator sets"),
    "no operator set": (model([], change=lambda m: m.ClearField("opset_import")), "operator sets"),
    "known number of a custom operator set": (
        model([], change=lambda m: m.opset_import.append(helper.make_opsetid("evil", 13))),
        "operator sets",
    ),
    "old operator set": (
        model([], change=lambda m: setattr(m.opset_import[0], "version", 7)),
        "operator sets 7|operator sets '' 7",
    ),
    "list of graphs": (model([node("Relu", ["start"], ["x"])], change=add_graphs), "a graph of its own"),
    "training": (model([], change=lambda m: m.training_info.add()), "training steps"),
    "sparse tensor": (model([], change=lambda m: m.graph.sparse_initializer.add()), "sparse tensors"),
    "sparse tensor of an operator": (model([], change=add_sparse_attribute), "sparse tensors"),
    "input of floats": (
        model([], change=lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT)),
        "the type 1 ",
    ),
    "many operators": (model([node("Identity", ["start"], ["x"])] * 20_001), "operations, more than 20000"),
    "more outputs": (model([node("Cast", ["start"], ["x", "y"], to=TensorProto.FLOAT)]), "more outputs"),
    "external data": (model([], change=add_external), "another file"),
    "external data of a constant": (model([], change=add_external_attribute), "another file"),
    "tensor without data": (model([], change=add_empty_tensor), "0 of 1.1e"),
    "expand": (
        model([node("Expand", ["one", "huge"], ["x"])], constant("one", [1], np.float32), constant("huge", HUGE)),
        "Expand makes",
    ),
    "constant of shape": (model([node("ConstantOfShape", ["huge"], ["x"])], constant("huge", HUGE)), "ConstantOfShape makes"),
    "resize by scales": (
        model([node("Resize", ["start", "", "scales"], ["x"])], constant("scales", [1, 1, 2000, 2000], np.float32)),
        "Resize makes",
    ),
    "resize by sizes": (model([node("Resize", ["start", "", "", "huge"], ["x"])], constant("huge", HUGE)), "Resize makes"),
    "resize to infinity": (
        model([node("Resize", ["start", "", "scales"], ["x"])], constant("scales", [1, 1, np.inf, 1], np.float32)),
        "do not fit",
    ),
    "pad": (model([node("Pad", ["start", "pads"], ["x"])], constant("pads", [0, 0, 0, 0, 0, 0, 90_000, 90_000])), "Pad makes"),
    "tile": (model([node("Tile", ["start", "n"], ["x"])], constant("n", [1, 1 << 20, 1, 1])), "Tile makes"),
    "range": (
        model([node("Range", ["a", "b", "c"], ["x"])], constant("a", 0), constant("b", 1 << 40), constant("c", 1)),
        "Range makes",
    ),
    "convolution with huge pads": (
        model([node("Conv", ["start", "w"], ["x"], pads=[100_000] * 4)], constant("w", np.ones((1, 1, 1, 1)), np.float32)),
        "Conv makes",
    ),
    "transposed convolution": (
        model(
            [node("ConvTranspose", ["start", "w"], ["x"], strides=[2000, 2000])],
            constant("w", np.ones((1, 1, 1, 1)), np.float32),
        ),
        "ConvTranspose makes",
    ),
    "pooling with huge pads": (
        model([node("MaxPool", ["start"], ["x"], kernel_shape=[1, 1], pads=[99_999] * 4)]),
        "MaxPool makes",
    ),
    "broadcasting": (
        model(
            [node("Add", ["a", "b"], ["x"])],
            constant("a", np.ones((1 << 17, 1)), np.float32),
            constant("b", np.ones((1, 1 << 17)), np.float32),
        ),
        "Add makes",
    ),
    "outer product": (
        model(
            [node("MatMul", ["a", "b"], ["x"])],
            constant("a", np.ones((1 << 17, 1)), np.float32),
            constant("b", np.ones((1, 1 << 17)), np.float32),
        ),
        "MatMul makes",
    ),
    "gather of one value": (
        model(
            [node("Gather", ["start", "many"], ["y"], axis=2), node("Gather", ["y", "many"], ["x"], axis=3)],
            constant("many", [0] * 9000),
        ),
        "Gather makes",
    ),
    "doubling": (model(doubled(40)), "Concat makes"),
    "many large tensors": (
        model(
            [*large_tensors(90), node("Sum", [f"x{i}" for i in range(90)], ["x"])],
            constant("pads", [0, 0, 0, 0, 0, 0, 4000, 1500]),
        ),
        "values at the same time",
    ),
    "much work": (
        model(
            [
                node("Pad", ["start", "pads"], ["p"]),
                *(node("Conv", ["p", "w"], [f"x{i}"], pads=[50] * 4) for i in range(30)),
            ],
            constant("pads", [0, 0, 0, 0, 0, 0, 960, 960]),
            constant("w", np.ones((1, 1, 101, 101)), np.float32),
        ),
        "multiplications",
    ),
    "size that depends on pixels": (
        model([node("Cast", ["features"], ["n"], to=TensorProto.INT64), node("ConstantOfShape", ["n"], ["x"])]),
        "before it is computed",
    ),
    "size from a mean": (
        model(
            [
                node("ReduceMax", ["start"], ["m"], keepdims=0),
                node("Cast", ["m"], ["n"], to=TensorProto.INT64),
                node("Range", ["n", "n", "n"], ["x"]),
            ]
        ),
        "depends on the pixels",
    ),
    "number of values that depends on pixels": (model([node("NonZero", ["start"], ["x"])]), "operator NonZero"),
    "negative size": (model([node("ConstantOfShape", ["n"], ["x"])], constant("n", [-5, 3])), "ConstantOfShape makes"),
    "stride of zero": (model([node("MaxPool", ["start"], ["x"], kernel_shape=[1, 1], strides=[0, 0])]), "do not fit"),
    "shapes that do not fit": (model([node("Reshape", ["start", "n"], ["x"])], constant("n", [7, 7])), "do not fit"),
    "name that is not UTF-8": (
        model([node("Relu", ["name_of_tensor"], ["x"])]).replace(b"name_of_tensor", b"name_of_\xff\xfe_sor"),
        "used before it is computed",
    ),
    **{
        f"einsum {equation}": (
            model([node("Einsum", ["start", "start"], ["x"], equation=equation)]),
            "an operation Einsum do not fit",
        )
        for equation in ("bhxx,bhyd->bhy", "bhx,bhyd->bhy", "bhxd,bhyd", "bhxd,bhyd->bhz", "...d,...d->...", "bhxd->bhxd")
    },
    "einsum that is too large": (
        model([node("Einsum", ["start", "start"], ["x"], equation="bhxd,stuv->bhxdstuv")], size=128),
        "Einsum makes a tensor of",
    ),
    "missing input": (model([node("MatMul", ["start"], ["x"])]), "lacks an input"),
    "other input": (model([], change=rename_input), "its inputs are image"),
    "two inputs": (model([], change=add_input), "its inputs are pixels, more"),
    "no logits": (model([], change=lambda m: m.graph.output.pop(0)), "no output logits"),
    "free image size": (
        model([], change=lambda m: m.graph.input[0].type.tensor_type.shape.dim[2].Clear()),
        "not uint8 and four sizes",
    ),
    "huge image": (model([], size=1 << 20), "Cast makes"),
    "not ONNX": (b"PK\x03\x04 nothing", "not an ONNX model"),
    "cut": (model([])[:-40], "not an ONNX model|no output|its inputs"),
    "empty": (b"", "operator sets"),
}


@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_model_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        GraphCheck(content)
    assert caught.value.exit_code == 2
    assert str(caught.value).isprintable()


def test_a_size_that_explodes_with_the_batch_is_refused() -> None:
    """Any rule of the batch is possible, so that each batch is checked when it is used."""
    power = [node("Shape", ["start"], ["s"]), node("Gather", ["s", "zero"], ["b"])]
    power += [node("Mul", ["b" if i == 0 else f"p{i - 1}", "b"], [f"p{i}"]) for i in range(6)]
    power += [node("Unsqueeze", ["p5", "axis"], ["n"]), node("ConstantOfShape", ["n"], ["x"])]
    check = GraphCheck(model(power, constant("zero", 0), constant("axis", [0])))
    check.rows_at_once((2, 1, 64, 64))
    with pytest.raises(BundleError, match="ConstantOfShape makes a tensor of"):
        check.rows_at_once((32, 1, 64, 64))


def test_only_tensors_that_are_needed_at_the_same_time_count_together() -> None:
    nodes = [op for i, pad in enumerate(large_tensors(90)) for op in (pad, node("ReduceMax", [f"x{i}"], [f"m{i}"]))]
    check = GraphCheck(model(nodes, constant("pads", [0, 0, 0, 0, 0, 0, 4000, 1500])))
    each, start = 4064 * 1564, 64 * 64
    expected = next(rows for rows in (32, 16, 8, 4, 2, 1) if rows * (each + start) < MAX_LIVE_VALUES)
    assert check.rows_at_once((32, 1, 64, 64)) == expected
    assert check.rows_at_once((1, 1, 64, 64)) == 1


@pytest.mark.parametrize("name", ["ct", "mri4", "lgg"])
def test_shipped_models_pass(name: str) -> None:
    content = (SHIPPED / name / "model.onnx").read_bytes()
    check = GraphCheck(content)
    sizes = [dim.dim_value for dim in onnx.load_from_string(content).graph.input[0].type.tensor_type.shape.dim]
    assert check.rows_at_once((64, *sizes[1:])) == 64
