# SPDX-License-Identifier: Apache-2.0
"""``scaled_mm`` on the GPU: against fp64 and the library, with every split, and what it leaves behind.

Letters: M tokens, N output features, K what is summed over.
"""

import ctypes

import pytest
import torch

from helion_compile.kernels import scaled_mm
from helion_compile.runtime import record, zeroed_workspace
from helion_compile.runtime.call_target import make_host_function

E4M3, INT8 = torch.float8_e4m3fn, torch.int8
BF16, FP32 = torch.bfloat16, torch.float32
TILES = {"block_sizes": [64, 16, 1, 256], "num_warps": 4, "num_stages": 4, "prefetch": 0}


def arguments(m, n, k, operands=E4M3, dtype=BF16, by_tensor=False, bias=False, fast_accum=True):
    def random(rows):
        values = torch.randn(rows, k, device="cuda")
        return values.to(E4M3) if operands == E4M3 else values.mul(40).round().clamp(-127, 127).to(INT8)

    a_scale, w_scale = (torch.rand(1 if by_tensor else size, device="cuda") + 0.5 for size in (m, n))
    return (
        random(m),
        random(n),
        a_scale,
        w_scale,
        torch.randn(n, device="cuda").to(BF16) if bias else None,
        dtype,
        fast_accum,
        "torch",
    )


def exact(a, w, a_scale, w_scale, bias, dtype, *_):
    result = (a.double() @ w.double().t()) * w_scale.double() * a_scale.double()[:, None]
    return result if bias is None else result + bias.double()


def error(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def with_config(config, args):
    """The kernel's result with this config, through a plan, as a table would make it."""
    made = record.record_plan(make_host_function(scaled_mm, args, config), args, zeroed_workspace=True)
    outputs = [torch.full(b.shape, float("nan"), dtype=b.dtype, device="cuda") for b in made.outputs]
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)] + outputs
    made.launch(*(tensor.data_ptr() for tensor in tensors))
    return outputs[0]


def block(split, block_m=16, block_k=256, **more):
    return {**TILES, "block_sizes": [64, block_m, split, block_k], **more}


@pytest.mark.parametrize("split", [1, 2, 4, 8])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1024, 4096), (3, 1008, 1040), (16, 4096, 4096), (33, 528, 2064), (64, 64, 512)])
def test_no_farther_from_fp64_than_the_library(split, m, n, k):
    args = arguments(m, n, k)
    got = with_config(block(split, 16 if m <= 16 else 64), args)
    library = scaled_mm.fallbacks["library"](*args)
    # The tensor cores' sums have fewer bits than fp32; where both are that far, their order of summation decides.
    assert error(got, exact(*args)) <= 1.1 * error(library, exact(*args)) + 2e-4


@pytest.mark.parametrize("fast_accum", [False, True])
def test_slow_accumulation_is_as_good_as_the_rounding_of_the_result(fast_accum):
    args = arguments(16, 1024, 12288, dtype=FP32, fast_accum=fast_accum)
    got = error(with_config(block(2, block_k=128), args), exact(*args))
    assert got < (1e-2 if fast_accum else 1e-3)


@pytest.mark.parametrize("split", [1, 4])
@pytest.mark.parametrize("dtype", [BF16, torch.float16, FP32])
@pytest.mark.parametrize("by_tensor", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_scales_biases_and_dtypes(split, dtype, by_tensor, bias):
    args = arguments(16, 512, 1024, dtype=dtype, by_tensor=by_tensor, bias=bias)
    args = (*args[:2], args[2] / 64, *args[3:])  # within the range of fp16
    assert error(with_config(block(split), args), exact(*args)) < 4e-3


@pytest.mark.parametrize("split", [1, 2, 8])
@pytest.mark.parametrize("m", [1, 16, 50])
def test_integer_products_are_exact_up_to_the_scales(split, m):
    args = arguments(m, 512, 4096, operands=INT8, dtype=FP32)
    assert error(with_config(block(split, 64), args), exact(*args)) < 1e-6


@pytest.mark.parametrize("split", [2, 8])
def test_equal_inputs_give_equal_bits_and_the_memory_between_stays_zero(split):
    args = arguments(16, 4096, 4096)
    first = with_config(block(split), args)
    for _ in range(200):
        assert torch.equal(with_config(block(split), args), first)
    torch.cuda.synchronize()
    assert zeroed_workspace._blocks
    for address, size in zeroed_workspace._blocks.values():
        memory = (ctypes.c_ubyte * size)()
        zeroed_workspace._ask("cuMemcpyDtoH_v2", memory, ctypes.c_uint64(address), ctypes.c_size_t(size))
        assert bytes(memory).count(0) == size


def test_special_values_reach_the_result():
    args = arguments(16, 512, 1024)
    args[0].view(torch.uint8)[3, 100] = 0x7F  # NaN
    args[1].view(torch.uint8)[5].zero_()
    for split in (1, 4):
        got = with_config(block(split), args)
        assert got[3].isnan().all() and got.isnan().sum() == 512
        assert (got[[0, 15], 5] == 0).all()


def test_two_streams_at_once():
    args = [arguments(16, 4096, 4096) for _ in range(2)]
    wanted = [with_config(block(4), each) for each in args]
    streams = [torch.cuda.Stream() for _ in args]
    torch.cuda.synchronize()
    for _ in range(100):
        results = []
        for stream, each in zip(streams, args, strict=True):
            with torch.cuda.stream(stream):
                results.append(with_config(block(4), each))
        torch.cuda.synchronize()
        assert all(torch.equal(result, want) for result, want in zip(results, wanted, strict=True))


def test_graphs_that_run_at_the_same_time_do_not_share_memory():
    args = [arguments(16, 4096, 4096) for _ in range(2)]
    config = block(4)
    plans = [record.record_plan(make_host_function(scaled_mm, each, config), each, zeroed_workspace=True) for each in args]
    wanted = [with_config(config, each) for each in args]
    outputs, graphs = [torch.empty_like(want) for want in wanted], []
    for made, each, output in zip(plans, args, outputs, strict=True):
        graph = torch.cuda.CUDAGraph()
        tensors = [arg for arg in each if isinstance(arg, torch.Tensor)] + [output]
        with torch.cuda.graph(graph):
            for _ in range(20):
                made.launch(*(tensor.data_ptr() for tensor in tensors))
        graphs.append(graph)
    streams = [torch.cuda.Stream() for _ in args]
    for _ in range(50):
        for stream, graph in zip(streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(output, want) for output, want in zip(outputs, wanted, strict=True))
        for output in outputs:
            output.zero_()


@pytest.mark.parametrize("prefetch", [512, 4096])
def test_a_prefetch_changes_nothing(prefetch):
    args = arguments(16, 1008, 1040)
    assert torch.equal(with_config(block(4, prefetch=prefetch), args), with_config(block(4), args))


def test_many_tokens_are_the_librarys_bit_for_bit():
    args = arguments(300, 512, 1024)
    if "fallback" not in (scaled_mm.pick(args).config or {}):
        pytest.skip("a table says that the kernel is the faster one")
    assert torch.equal(scaled_mm(*args), scaled_mm.fallbacks["library"](*args))
