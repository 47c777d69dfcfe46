# SPDX-License-Identifier: Apache-2.0
"""Every row of the conformance table becomes a kernel with the same results, or is refused with the reason given here.

On a CPU, where a kernel is its reference; tests/gpu/kernels shows that the kernels are their references.
"""

import pytest
import torch

from helion_compile.frontend.capture import make_inspecting_backend
from tests.support.conformance import argument, arguments, of_any_number_of_rows
from tests.support.corpus.activations import ACTIVATIONS
from tests.support.corpus.all_quantisers import QUANTISERS
from tests.support.corpus.concats import CONCATS
from tests.support.corpus.modulations import MODULATIONS
from tests.support.corpus.norms import NORMS
from tests.support.corpus.quantisers import torchao_row
from tests.support.corpus.ropes import ROPES
from tests.support.numerics import fp8_steps

BF16 = torch.bfloat16
A_TENSOR = "one scale per tensor is known when all of it was read"
FP64 = "the scale is computed in torch.float64"
A_PRODUCT = "how a complex product is rounded is the device's own"
REFUSED = {
    "torchao_tensor": A_TENSOR,
    "torchao_tensor_e5m2": A_TENSOR,
    "torchao_training_tensor": A_TENSOR,
    "vllm_tensor": A_TENSOR,
    "torchao_int8_tensor": A_TENSOR,
    "torchao_training_row": FP64,
    "double_scale": FP64,
    "torchao_int8_range": "the zero point comes from a division in torch.",
    "int8_token_reciprocal": "nothing bounds the values before the cast to torch.int8",
    "compressed_tensors": "rows of zeros have a scale of their own",  # which the graph returns; test_compressed_tensors
    "rotate_half_inverse": "pairs are rotated by minus the angle",
    "chunked_inverse": "pairs are rotated by minus the angle",
    "complex_products": A_PRODUCT,
    "complex_products_of_fp64_angles": A_PRODUCT,
    "complex_products_in_fp64": A_PRODUCT,
}
IN_DEFAULT_TOO = {name for name, reason in REFUSED.items() if reason == A_TENSOR} | {
    "int8_token_reciprocal",
    "compressed_tensors",
    "rotate_half_inverse",
    "chunked_inverse",
}
IN_DEFAULT_OF_FP32 = {"complex_products_of_fp64_angles", "complex_products_in_fp64"}
OF_FP64 = "its product of complex128, of which the kernel would lose bits"


def run(function, args, numerics):
    """The result, and the record of the pass."""
    found = []
    backend = make_inspecting_backend(found, options={"strict": True, "numerics": numerics})
    result = torch.compile(function, backend=backend, fullgraph=True)(**args)
    return torch.utils._pytree.tree_leaves(result), found[0].record


def assert_bit_equal(results, expected):
    for result, value in zip(results, expected, strict=True):
        assert (result.dtype, result.shape, result.stride()) == (value.dtype, value.shape, value.stride())
        assert torch.equal(result.double().nan_to_num(9e9), value.double().nan_to_num(9e9))


@pytest.mark.parametrize("row", QUANTISERS, ids=str)
def test_quantisers(row):
    args = arguments(row, BF16)
    results, record = run(row.function, args, "exact")
    assert_bit_equal(results, torch.utils._pytree.tree_leaves(row.function(**args)))
    if str(row) not in REFUSED:
        assert [site.fusion for site in record.sites] == ["quant"]
        assert not record.refusals
        return
    assert not record.sites
    (refusal,) = record.refusals
    assert REFUSED[str(row)] in str(refusal)


@pytest.mark.parametrize("row", [row for row in QUANTISERS if str(row) in REFUSED], ids=str)
def test_default_numerics_takes_what_only_rounds_otherwise(row):
    _, record = run(row.function, arguments(row, BF16), "default")
    assert bool(record.sites) == (str(row) not in IN_DEFAULT_TOO)


@pytest.mark.parametrize("row", NORMS, ids=str)
def test_norms(row):
    def function(**args):
        out = row.function(**args)
        norm, *total = out if isinstance(out, tuple) else (out,)
        return *torchao_row(norm), *total

    args = arguments(row, BF16)
    results, record = run(function, args, "exact")
    # A gate behind the norm is no part of it: what is quantised is their product.
    assert [site.fusion for site in record.sites] == ["quant" if str(row) == "gated" else "norm_quant"]
    expected = torch.utils._pytree.tree_leaves(function(**args))
    if row.exact:
        assert_bit_equal(results, expected)
    else:  # eager has a kernel of its own, which sums in another order
        assert fp8_steps(results[0], expected[0]).max() <= 1


@pytest.mark.parametrize("row", MODULATIONS, ids=str)
def test_modulations(row):
    args = arguments(row, BF16)
    results, record = run(quantised(row), args, "exact")
    assert [site.fusion for site in record.sites] == ["modulated_norm_quant"]
    if row.op(BF16).x_dtype != BF16:
        pytest.skip("this torch does not round between norm and modulation, as eager does")
    expected = torch.utils._pytree.tree_leaves(quantised(row)(**args))
    assert fp8_steps(results[0], expected[0]).max() <= 1  # eager has a kernel of its own, which sums in another order


@pytest.mark.parametrize("row", CONCATS, ids=str)
def test_concatenations(row):
    args = arguments(row, BF16)
    results, record = run(quantised(row), args, "exact")
    assert [site.fusion for site in record.sites] == ["concat_activation_quant"]
    assert_bit_equal(results, torch.utils._pytree.tree_leaves(quantised(row)(**args)))


CASES = [
    (row, dtype, numerics, dynamic)
    for row in (*NORMS, *MODULATIONS, *QUANTISERS, *ACTIVATIONS, *CONCATS, *ROPES)
    for dtype in row.dtypes
    for numerics in ("default", "exact")
    for dynamic in (False, True)
]


@pytest.mark.slow
@pytest.mark.parametrize(("row", "dtype", "numerics", "dynamic"), CASES, ids=str)
def test_within_the_contract(row, dtype, numerics, dynamic):
    """Each row in each dtype, with sizes known and unknown; norms also behind an addition whose sum others read.

    Embeddings stand behind a norm of each head, norms and activations before a quantiser.
    """
    args = arguments(row, dtype)
    function = row.function if row in QUANTISERS else behind_a_norm(row) if row in ROPES else quantised(row)
    verify(row, function, args, numerics, dynamic)
    if row.residual:

        def function(residual, x, **others):
            total = x + residual
            return *quantised(row)(x=total, **others), total

        verify(row, function, {**args, "residual": argument("residual", row, dtype)}, numerics, dynamic)


def test_a_size_that_the_original_alone_reads_may_be_computed_behind_the_kernel():
    (row,) = (row for row in QUANTISERS if str(row) == "padded_columns")
    verify(row, row.function, arguments(row, torch.bfloat16), "default", dynamic=True)


def quantised(row):
    def function(**args):
        first, *others = args.values()
        out = row.function(row.behind(first) if row.behind else first, *others)
        norm, *total = out if isinstance(out, tuple) else (out,)
        return *torchao_row(norm), *total

    return function


def behind_a_norm(row):
    def function(x, **angles):
        x32 = x.float()
        x = (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return row.function(x, **angles)

    return function


def verify(row, function, args, numerics, dynamic):
    """Run one site against what it replaces; or find the row refused, with a reason and a remedy."""
    if dynamic:
        of_any_number_of_rows(row, args)
    found = []
    torch._dynamo.reset()
    backend = make_inspecting_backend(found, options={"strict": True, "numerics": numerics}, verify=True)
    torch.compile(function, backend=backend, dynamic=None if dynamic else False, fullgraph=True)(**args)
    (inspected,) = found
    if str(row) == "gated" and numerics == "default":
        assert [kept.fusion for kept in inspected.record.kept] == ["quant"], "Inductor's kernel of the gate quantises"
        return
    if not inspected.report.fused:
        default = IN_DEFAULT_TOO | (IN_DEFAULT_OF_FP32 if args["x"].dtype == torch.float32 else set())
        assert str(row) in (REFUSED if numerics == "exact" else default)
        reason = OF_FP64 if numerics == "default" and str(row) in IN_DEFAULT_OF_FP32 else REFUSED[str(row)]
        assert any(reason in str(refusal) and refusal.remedy for refusal in inspected.record.refusals)
        return
    (site,) = inspected.report.fused
    assert site.verified and [compared.broken for compared in site.verified if compared.broken] == []
