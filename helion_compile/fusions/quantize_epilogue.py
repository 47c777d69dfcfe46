# SPDX-License-Identifier: Apache-2.0
"""Something -> quantise as one call of a kernel: what all such fusions ask of the quantiser and hand to the kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from helion_compile.fusions.operands import Fakes, Nodes, Operands, Outputs, unpack, value_of
from helion_compile.fusions.profitability import check_profitable_kernel
from helion_compile.graph.hop import helion_kernel
from helion_compile.helion_kernel import HelionKernel
from helion_compile.kernels.device.attribute_text import copy_fields, word_of
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import CASTS, CLONES, RESHAPES, VIEWS, known_equal, number, shape_of
from helion_compile.passes.match.clones import lies_in_rows
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops import vllm_table
from helion_compile.passes.patterns.custom_ops.op_call import get_op_name
from helion_compile.passes.rewrite.fusion import Chain, Emit, Fusion
from helion_compile.passes.semantics import (
    Granularity,
    Matmul,
    Quantize,
    ScaleFormat,
    ScaleUse,
    SemanticOp,
)

__all__ = ["into_quantizer", "quantizer_text"]

aten = torch.ops.aten

_LIKE = {ScaleUse.MULTIPLY_QUOTIENT: ScaleUse.MULTIPLY_FACTOR_INVERSE}  # but for the last bit
_MATMULS = frozenset({aten._scaled_mm.default, aten._int_mm.default, aten.mm.default, aten.addmm.default, aten.bmm.default})


def into_quantizer(
    kernel: HelionKernel,
    arguments_type: Callable[..., tuple[Any, ...]],
    *front: type[SemanticOp],
    exact: bool,
    fields: Callable[[Chain, Operands], Mapping[str, Any]],
    outputs: Callable[[Chain], Sequence[tuple[type[SemanticOp], str]]] = lambda chain: (),
    check: Callable[[Chain], Refusal | None] = lambda chain: None,
    same_bits: bool = False,
    check_profitable: Callable[[Chain], Refusal | None] = lambda chain: None,
) -> Fusion:
    """``front`` -> Quantize, or a quantiser alone, as one call of ``kernel``, whose name the fusion takes.

    It returns what the quantiser has, then ``outputs``.

    Args:
        arguments_type: NamedTuple of the kernel's arguments, among them scale, scale_ub, quantizer and exact.
        fields: its other fields, by name.
        outputs: what the kernel returns of the front, each as op and name.
        check: why a front is none that the kernel computes.
        same_bits: whether the kernel's bytes are those of the original, so that anything may read them.
        check_profitable: why a chain that the kernel computes is better left to Inductor.
    """

    def arguments(chain: Chain, operands: Operands) -> tuple[Any, ...]:
        own = fields(chain, operands)
        scale, scale_ub = (None if node is None else operands.of(node) for node in _inputs(chain))
        quantizer = quantizer_text(chain[Quantize].op)
        return arguments_type(**own, scale=scale, scale_ub=scale_ub, quantizer=quantizer, exact=exact)

    def check_all(chain: Chain) -> Refusal | None:
        return (
            check(chain)
            or (None if same_bits else _check_readers(chain))
            or _check_quantize(chain, exact)
            or check_profitable_kernel(
                chain, kernel, exact, *arguments(chain, Fakes(cloning=_is_cloned(chain))), check=check_profitable
            )
        )

    def build(chain: Chain, emit: Emit) -> Outputs:
        operands = Nodes(emit, cloning=_is_cloned(chain))
        results = unpack(emit, emit(helion_kernel, *arguments(chain, operands), kernel=kernel.name))
        return dict(zip([*_outputs(chain), *outputs(chain)], results, strict=True))

    return Fusion(kernel.short_name, (*front, Quantize), check=check_all, build=build)


def quantizer_text(op: Quantize) -> str:
    """The attributes as kernels take them; of an op that is not refused."""
    scale = copy_fields(op, "qmax", "scale_dtype", "division") if op.dynamic else {}
    return QuantizeAttrs(
        **copy_fields(op, "dtype", "zero_point", "clamp", "amax_ceiling", "scale_floor"),
        **scale,
        group=op.group if op.granularity is Granularity.GROUP else None,
        use=word_of(_LIKE.get(op.use, op.use)),
        amax_floor=op.amax_floor if op.amax_of_zeros is None else _smallest(op.x_dtype),
        ue8m0=op.scale_format is ScaleFormat.UE8M0,
        layout=word_of(op.scale_layout),
    ).text


def _smallest(dtype: torch.dtype) -> float:
    """The smallest positive number: as a floor it changes the scales of rows of zeros alone."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def _check_zeros(chain: Chain) -> Refusal | None:
    """A row of zeros has another scale in the kernel, one with a NaN other values: in products both are 0, and NaN."""
    op = chain[Quantize].op
    if op.x_dtype == torch.float32 or op.use is not ScaleUse.DIVIDE:
        found, remedy = "rows of zeros have a scale of their own ({use}), and x is {x}", "divided rows of 16 bits fuse"
        return chain.refuse(RefusalKind.OP, found, remedy, use=op.use, x=op.x_dtype)
    for name in ("q", "scale"):
        for reader in chain.readers(Quantize, name):
            if reader.match is None or not isinstance(reader.match.op, Matmul):
                return chain.refuse(
                    RefusalKind.READER,
                    "rows of zeros have a scale of their own, which {reader} at {where} may see",
                    "read by matmuls alone they fuse",
                    reader=str(reader.node.target),
                    where=Location.of(reader.node),
                )
    return None


def _is_cloned(chain: Chain) -> bool:
    """Whether readers are given rows, of whatever lies otherwise in front of the chain: then one copy is made there instead.

    Of results that are looked at by their strides nothing may lie in another way.
    """
    return all(_is_read_in_rows(node, chain) for node in chain.copies_read(Quantize, "q")) and not any(
        view.target is aten.as_strided.default
        for op, name, _ in chain.outputs()
        for reader in chain.readers(op, name)
        for view in reader.views
    )


def _is_read_in_rows(node: Node, chain: Chain) -> bool:
    """Whether a value lies in rows, or all who read it read a copy that does."""
    return lies_in_rows(value_of(node)) or all(
        user in chain.nodes
        or (user.target in RESHAPES and _is_read_in_rows(user, chain))
        or (user.target in CLONES and lies_in_rows(value_of(user)))
        for user in node.users
    )


def _inputs(chain: Chain) -> tuple[Node | None, Node | None]:
    """The static scale and the upper bound of the largest magnitude, where the quantiser has them."""
    op = chain[Quantize].op
    return None if op.dynamic else chain.inputs["scale"], chain.inputs["scale_ub"] if op.scale_ub else None


def _outputs(chain: Chain) -> list[tuple[type[Quantize], str]]:
    """Names of the quantiser's outputs, in the order in which kernels return them."""
    op = chain[Quantize].op
    present = {"q": True, "scale": op.dynamic, "zero": op.zero_point}
    return [(Quantize, name) for name, is_there in present.items() if is_there]


def _check_quantize(chain: Chain, exact: bool) -> Refusal | None:
    """Why no kernel takes a quantiser of this kind; what of its attributes a kernel computes is the kernel's to say."""
    op = chain[Quantize].op
    if op.granularity is Granularity.TENSOR and op.dynamic:
        return chain.refuse(
            RefusalKind.INDUCTOR,
            "one scale per tensor is known when all of it was read, so a second kernel has to write the values; Inductor "
            "makes the same two",
            "one scale per token, one per group and a static one fuse",
        )
    if not op.dynamic and op.granularity is not Granularity.TENSOR:
        found, remedy = "there is one static scale {granularity}", "a static scale of one number fuses"
        return chain.refuse(RefusalKind.OP, found, remedy, granularity=op.granularity)
    if not op.dynamic and (others := [other for other in chain.find_siblings(Quantize, "x") if not other.op.dynamic]):
        return chain.refuse(
            RefusalKind.INDUCTOR,
            "{count} static scales quantise one tensor, of which Inductor makes one kernel and we as many as there are scales",
            "one scale for all of them fuses",
            count=len(others) + 1,
        )
    taken = shape_of(chain[Quantize].inputs["x"])
    for made in (shape_of(node) for front in chain.matches[-2:-1] for node in front.outputs.get("out", ())):
        # An operator that normalises and quantises has no tensor in between.
        if op.dynamic and taken and made and not known_equal(made[-1], taken[-1]):
            found, remedy = "rows of {made} elements are quantised in rows of {taken}", "rows that stay as they are fuse"
            return chain.refuse(RefusalKind.SHAPE, found, remedy, made=made[-1], taken=taken[-1])
    if exact and op.use is ScaleUse.MULTIPLY_QUOTIENT:
        return chain.refuse(
            RefusalKind.NUMERICS,
            "x is multiplied by qmax / amax of one division, and by (1 / amax) * qmax in the kernel, which may have another "
            "last bit",
            "with numerics='default' it fuses",
        )
    if exact and op.zero_of_any_sign:
        return chain.refuse(
            RefusalKind.NUMERICS,
            "the scale of a row of zeros is 0 or -0, as the device takes the larger of -min(x) and max(x); the kernel's is 0",
            "of x.abs(), with a floor or with numerics='default' it fuses",
        )
    return _check_zeros(chain) if op.amax_of_zeros is not None else None


def _check_readers(chain: Chain) -> Refusal | None:
    """A matmul, and who gets the values from the graph, may meet a last-bit difference; other readers may depend on bytes."""
    for reader in chain.readers(Quantize, "q"):
        if reader.node.op != "output" and (other := _other_than_products(reader.node, reader.match)):
            return chain.refuse(
                RefusalKind.READER,
                "the quantised bytes are also read by {reader} at {where}, and a fused kernel may change a byte by one step",
                "with only matmuls reading them it fuses",
                reader=str(other.target),
                where=Location.of(other),
            )
    return None


def _other_than_products(node: Node, match: Match | None, leaves: bool = True) -> Node | None:
    """What reads the bytes and is no matmul; None where they go to matmuls alone, converted or shifted by a constant too.

    On a CPU torchao writes int8 products as such, of floats or of uint8.  ``leaves``: the bytes may leave the graph.
    """
    if match is not None and isinstance(match.op, Matmul):
        return None
    if node.target in _MATMULS or get_op_name(node) in vllm_table.matmul.ANCHORS:
        return None
    shifts = node.target is aten.add.Tensor and number(node.args[1]) is not None
    if node.target in CASTS | CLONES | VIEWS or shifts:
        leaves = leaves and node.target in CLONES | VIEWS
        users = [user for user in node.users if user.op != "output" or not leaves]
        others = [_other_than_products(user, None, leaves) for user in users]
        if node.users and not any(others):
            return None
    elif node.target is aten.view.dtype:
        others = list(node.users)
    else:
        return node
    # Who reads the bytes converted says more than the conversion, if it is in the graph.
    return next((other for other in others if other is not None and other.op != "output"), node)
