"""Shape arithmetic of ONNX graphs becomes constants.

    Shape → Gather → Concat → Reshape(x, ·)      ──►      Reshape(x, const)

Graphs from the legacy torch exporter compute the shapes, pads and slice bounds that they need from
the shapes of their tensors, even where those are known. TVM's importer wants such operands
constant. onnxruntime's graph optimiser evaluates them: its basic level keeps standard operators.
The weights are detached meanwhile (:mod:`.weights`) and every rewrite that regroups arithmetic is
switched off, so that each value is computed by the operators that computed it before.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime

from ..errors import ModelError
from .runtime_errors import ORT_ERRORS
from .weights import attach_weights, detach_weights

STRUCTURAL = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceLogSum": (1,),
    "ReduceLogSumExp": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Operands that decide the shape of a result, by operator."""

_READS_SHAPES = {"Shape", "Size", "If"}

_REGROUPING = [
    "ConstantFoldingDQ",
    "ConvAddFusion",
    "ConvBNFusion",
    "ConvMulFusion",
    "DivMulFusion",
    "FuseReluClip",
    "GatherSliceToSplitFusion",
    "GatherToSliceFusion",
    "GeluFusionL1",
    "GemmSumFusion",
    "GemmTransposeFusion",
    "LayerNormFusionL1",
    "MatMulAddFusion",
    "MatMul_BatchNormalization_Fusion",
    "PropagateCastOps",
    "QDQPropagationTransformer",
    "SimplifiedLayerNormFusion",
    "TransposeOptimizer",
]
"""Rewrites of onnxruntime's basic level that replace arithmetic by other arithmetic."""


def needs_folding(graph: onnx.GraphProto) -> bool:
    """Whether the graph computes shapes, or operands that decide one."""
    constants = {tensor.name for tensor in graph.initializer} | {""}
    constants |= {out for node in graph.node if node.op_type == "Constant" for out in node.output}
    return any(
        node.op_type in _READS_SHAPES
        or any(
            node.input[position] not in constants
            for position in STRUCTURAL.get(node.op_type, ())
            if position < len(node.input)
        )
        for node in graph.node
    )


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Evaluate what does not depend on the values of inputs and weights.

    Parameters
    ----------
    model : onnx.ModelProto
        With the shapes of its inputs declared; symbolic ones stay symbolic. Left as it is.

    Returns
    -------
    onnx.ModelProto
        The folded graph, with the weights of `model`.

    Raises
    ------
    ModelError
        onnxruntime refuses the graph.
    """
    bare, weights = detach_weights(model)
    _spell_out_sizes(bare.graph)
    folded = _optimise(bare)
    attach_weights(folded, weights)
    used = {node.domain for node in folded.graph.node}
    imports = [entry for entry in folded.opset_import if entry.domain in used | {""}]
    del folded.opset_import[:]
    folded.opset_import.extend(imports)
    return folded


def _spell_out_sizes(graph: onnx.GraphProto) -> None:
    """Size(x) → ReduceProd(Shape(x)): onnxruntime evaluates Shape, but not Size."""
    spelled: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Size":
            result = node.output[0]
            shape = f"{result}_shape"
            spelled.append(onnx.helper.make_node("Shape", node.input, [shape], shape))
            node = onnx.helper.make_node(
                "ReduceProd", [shape], [result], node.name or result, keepdims=0
            )
        spelled.append(node)
    del graph.node[:]
    graph.node.extend(spelled)


def _optimise(bare: onnx.ModelProto) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="smartmem-fold-") as folder:
        target = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(
                bare.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_REGROUPING,
            )
        except ORT_ERRORS as error:
            raise ModelError(
                f"the shape arithmetic of the model cannot be folded; onnxruntime says: {error}"
            ) from error
        return onnx.load(target, load_external_data=False)
