"""RMSNorm, as Llama and its many descendants, ``nn.RMSNorm`` and ``F.rms_norm`` write it.

::

    x32 = x.float()                                              x [..., K]
    rstd = rsqrt(mean(x32 * x32, dim=-1, keepdim=True) + eps)    fp32 [..., 1]    <- anchor
    out = weight * (x32 * rstd).to(x.dtype)                      cast then scale
    out = (weight * (x32 * rstd)).to(dtype)                      scale then cast
    out = (x32 * rstd).to(dtype)                                 without weight
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node

from passes.meanings import Norm, NormRounding
from passes.region import Region
from passes.spellings.walk import ADD, MEAN, MUL, Walk
from passes.values import (
    cast_dtype,
    describe,
    dtype_name,
    dtype_of,
    known_equal,
    lossless,
    origin,
    rounded,
    same_shape,
    shape_of,
    unshaped,
)

__all__ = ["ANCHORS", "NAME", "read", "with_residual"]

aten = torch.ops.aten

NAME = "norm"
ANCHORS = frozenset({aten.rsqrt.default})
_SQUARE = frozenset({aten.pow.Tensor_Scalar, *MUL})


def read(anchor: Node) -> Region | None:
    """The RMSNorm around an ``rsqrt``; None when the ``rsqrt`` has no mean behind it and so belongs to no norm."""
    walk = Walk(anchor)
    mean, eps = _mean_and_eps(walk) if shape_of(anchor) else (None, 0.0)
    if mean is None:
        return None
    walk.over_last_dim(mean, mean.args[1], "a mean")
    wide = _squared(walk, mean.args[0])
    if dtype_of(wide) != torch.float32:
        walk.fail(mean, f"the mean is taken in {dtype_name(dtype_of(wide))}; a norm with its mean in fp32 fuses")
    x = walk.exact(wide)

    out, weight, rounding = _weight_and_cast(walk, _normalised(walk, x), x)
    meaning = Norm(
        eps=eps,
        x_dtype=dtype_of(x),
        dtype=dtype_of(out[0]),
        weight_dtype=dtype_of(weight),
        rounding=rounding,
    )
    return walk.region(meaning, {"x": x} if weight is None else {"x": x, "weight": weight}, {"out": out})


def with_residual(norm: Region) -> Region | None:
    """The norm together with the addition whose sum it reads; None when no plain addition is in front of it."""
    add = norm.inputs["x"]
    if add.target is not aten.add.Tensor or add.kwargs.get("alpha", 1) != 1:
        return None
    x, residual = add.args
    for operand in (x, residual):
        if dtype_of(operand) != dtype_of(add) or not same_shape(shape_of(operand), shape_of(add)):
            return None
    return dataclasses.replace(
        norm,
        meaning=dataclasses.replace(norm.meaning, residual=True),
        inputs=norm.inputs | {"x": x, "residual": residual},
        outputs=norm.outputs | {"sum": (add,)},
        nodes={add: None} | norm.nodes,
        narrower=norm,
    )


def _mean_and_eps(walk: Walk) -> tuple[Node | None, float]:
    add = walk.through_views(walk.anchor.args[0])
    if not isinstance(add, Node) or add.target not in ADD:
        return None, 0.0
    for value, eps in (add.args[:2], add.args[1::-1]):
        mean = unshaped(value)
        if not isinstance(mean, Node):
            continue
        if mean.target is operator.getitem and mean.args[0].target is aten.var_mean.correction:
            walk.fail(mean, "LayerNorm, a norm with mean and variance, is not read yet; RMSNorm fuses")
        if mean.target in MEAN:
            return walk.to(value, MEAN, "the mean of squares"), _constant_eps(walk, walk.take(add), eps)
    return None, 0.0


def _constant_eps(walk: Walk, add: Node, eps: Any) -> float:
    value = walk.number(eps)
    if value is None:
        walk.fail(
            add,
            f"eps is known at run time only, it is {describe(origin(eps))}; an eps that is a constant of the graph "
            "fuses (dynamic=True makes inputs of Python floats, torch._dynamo.config.specialize_float = True makes "
            "constants of them)",
        )
    if add.kwargs.get("alpha", 1) != 1:
        walk.fail(add, f"expected mean + eps, found an addition with alpha={add.kwargs['alpha']}")
    return rounded(value, dtype_of(add))


def _squared(walk: Walk, value: Any) -> Node:
    """x32, from x32 ** 2 or x32 * x32."""
    square = walk.to(value, _SQUARE, "the square of x")
    walk.cheap.add(square)
    base, exponent = square.args
    if not (exponent == 2 if square.target is aten.pow.Tensor_Scalar else exponent is base):
        walk.fail(square, f"expected the square of x, found {describe(square)} of {base} and {exponent}")
    return base


def _normalised(walk: Walk, x: Node) -> Node:
    """x32 * rstd."""
    for product in walk.readers(walk.anchor):
        rstd = walk.other(product, x, behind=lossless) if product.target in MUL else None
        if rstd is not None and unshaped(rstd) is walk.anchor:
            walk.one_number_a_row(rstd, over=x, what="rsqrt(mean + eps)", at=product)
            walk.through_views(rstd)
            for operand in product.args[:2]:
                walk.exact(operand)
            return walk.take(product)
    readers = ", ".join(map(describe, walk.readers(walk.anchor))) or "no reader"
    walk.fail(walk.anchor, f"expected x * rsqrt(…) in fp32, with the x whose mean was taken, found {readers}")


def _weight_and_cast(walk: Walk, normalised: Node, x: Node) -> tuple[tuple[Node, ...], Node | None, NormRounding]:
    """The result's copies, the weight and the order in which scaling and rounding come.

    Where both orders give the same bits, without a weight or in fp32 throughout, it is scale then cast.
    """
    if casts := _roundings(normalised):
        product, weight = _scaled(walk, casts, x)
        if product is None:
            return casts, None, NormRounding.SCALE_THEN_CAST
        if dtype_of(casts[0]) != dtype_of(x):
            walk.fail(
                casts[0],
                f"the normalised value is rounded to {dtype_name(dtype_of(casts[0]))} before the weight; "
                f"rounded to the input's dtype, {dtype_name(dtype_of(x))}, it fuses",
            )
        for cast in casts:
            walk.take(cast)
        return (product,), weight, NormRounding.CAST_THEN_SCALE
    product, weight = _scaled(walk, (normalised,), x)
    if product is None:
        return (normalised,), None, NormRounding.SCALE_THEN_CAST
    return _roundings(walk.take(product)) or (product,), weight, NormRounding.SCALE_THEN_CAST


def _roundings(node: Node) -> tuple[Node, ...]:
    """The casts of an fp32 node to a 16-bit float, if every reader is such a cast, to one dtype."""
    dtypes = {cast_dtype(user) for user in node.users}
    return tuple(node.users) if dtypes in ({torch.bfloat16}, {torch.float16}) else ()


def _scaled(walk: Walk, values: Iterable[Node], x: Node) -> tuple[Node | None, Node | None]:
    """The product of one of the equal ``values`` with a weight [K], and the weight."""
    hidden = shape_of(x)[-1]
    readers = [(value, user) for value in values for user in value.users]
    for value, product in readers:
        factor = walk.other(product, value) if product.target in MUL else None
        weight = lossless(unshaped(lossless(factor)))
        if not isinstance(weight, Node):
            continue
        shape = shape_of(weight)
        if shape is not None and len(shape) == 1 and known_equal(shape[0], hidden):
            if len(readers) > 1:
                others = ", ".join(describe(user) for _, user in readers if user is not product)
                walk.fail(value, f"the normalised value is also read before the weight is applied, by {others}")
            for step in (walk.exact, walk.through_views, walk.exact):
                factor = step(factor)
            return product, weight
        if len(readers) == 1 and weight.op in ("placeholder", "get_attr"):
            walk.fail(product, f"the weight, {describe(weight)}, has shape {list(shape or ())}; shape [{hidden}] fuses")
    return None, None
