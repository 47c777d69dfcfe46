# SPDX-License-Identifier: Apache-2.0
"""Inductor's code without Python: references on a CPU, and for a GPU the Triton kernels that a call launches."""

import re

import helion.language as hl
import pytest
import torch

import helion_compile
from helion_compile.configs.row import Row
from helion_compile.errors import PackageError
from helion_compile.graph.without_python import check_graph
from helion_compile.kernels import norm_quant, quant, scaled_mm
from tests.support.absent_gpu import compile_kernels, list_launches, write_cpp
from tests.support.gpus import H200
from tests.support.needs import cpp_without_gpu
from tests.support.small_kernels import accumulate, add, affine, bump, split_sign

E4M3 = torch.float8_e4m3fn
QUANTIZER = "float8_e4m3fn clamp=-448:448 scale_dtype=bfloat16"
NORM = (None, None, None, None, 1e-6, "rms cast_then_scale", QUANTIZER, False, False)


def x(rows=8, columns=64, dtype=torch.float32):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


FAST = {"cpp_cache_precompile_headers": False}  # of use where several wrappers are compiled


# --- on a CPU ---------------------------------------------------------------------------------------------------------


def assert_equal_in_cpp(function, *args):
    copies = [arg.clone() for arg in args]
    expected = function(*copies)
    result = torch.compile(function, fullgraph=True, options={"cpp_wrapper": True, **FAST})(*args)
    torch.testing.assert_close((result, args), (expected, tuple(copies)), rtol=0, atol=0)


def test_references_in_a_cpp_wrapper():
    """Results, several results, constants, written arguments, a reader in front and behind."""

    def function(x, total):
        positive, negative = split_sign(affine(add(x * 2, x), None, 3.0))
        bump(total)
        return positive + 1, negative, accumulate(total, x)

    assert_equal_in_cpp(function, x(), x())


@pytest.mark.slow
def test_exact_keeps_eagers_bits_in_a_cpp_wrapper():
    assert_equal_in_cpp(lambda x: quant(x, None, None, QUANTIZER, True), x(dtype=torch.bfloat16))


def test_a_reference_that_cannot_be_traced_is_refused_with_a_sentence():
    kernel = helion_compile.kernel(
        add.fn, reference=lambda x, y: torch.rand_like(x), name="test_random_without_python", case=lambda x, y: add.case(x, y)
    )
    with pytest.raises(Exception, match=r"test_random_without_python cannot be called without Python: its reference.*rand"):
        torch.compile(lambda x: kernel(x, x), fullgraph=True, options={"cpp_wrapper": True})(x())


# --- for a GPU --------------------------------------------------------------------------------------------------------


@cpp_without_gpu
def test_a_kernel_of_known_sizes(monkeypatch):
    code = write_cpp(
        monkeypatch, lambda x, w: norm_quant(x, w, *NORM), x(64, 4096, torch.bfloat16), x(1, 4096, torch.bfloat16)[0]
    )
    ((name, arguments),) = list_launches(code)
    assert name == "norm_quant" and arguments[-3:] == ["64L", "1L", "1L"]
    assert re.search(r"aoti_torch_empty_strided\(2, int_array_\d, int_array_\d, cached_torch_dtype_float8_e4m3fn", code)
    # As fp64, which Inductor would make of it, eps would make all that it is added to fp64.
    assert "eps: tl.constexpr" in code and "'eps': 1e-06" in code
    # Triton would look for the current device, which a compile worker has not.
    assert "target_info" not in code and "if True:\n        tl.extra.cuda.gdc_wait()" in code
    config = norm_quant.table.pick(norm_quant.case(x(64, 4096, torch.bfloat16), x(1, 4096)[0], *NORM), H200).config
    assert f"'num_warps': {config['num_warps']}" in code
    assert "helion_compile" not in re.sub(r"#.*", "", code).partition("norm_quant_0_source")[2].partition("benchmark")[0]


@cpp_without_gpu
def test_its_kernels_compile_for_the_gpu(monkeypatch, tmp_path):
    """What stands in the C++ is all that Triton needs; sums are of fp32, and PDL's waiting is in."""
    config = {"block_sizes": [64, 16, 4, 256], "num_warps": 4, "num_stages": 2, "prefetch": 0}
    use_config(monkeypatch, scaled_mm, tmp_path, config)

    def both(x, weight, w, w_scale):
        q, scale = norm_quant(x, weight, *NORM)
        return product(q, w, scale.view(-1), w_scale)

    _, w, _, w_scale = operands()
    x_, weight = x(16, 1024, torch.bfloat16), x(1, 1024, torch.bfloat16)[0]
    ptx = compile_kernels(write_cpp(monkeypatch, both, x_, weight, w, w_scale))
    assert set(ptx) == {"_helion_norm_quant", "_helion_scaled_mm"}
    for text in ptx.values():
        assert ".target sm_90" in text and "griddepcontrol.wait" in text and ".f64" not in text
    assert "st.relaxed.gpu.global.b32" in ptx["_helion_scaled_mm"]


@cpp_without_gpu
def test_a_range_of_sizes_has_a_config_for_each_part(monkeypatch):
    code = write_cpp(
        monkeypatch,
        lambda x, w: norm_quant(x, w, *NORM),
        x(64, 4096, torch.bfloat16),
        x(1, 4096, torch.bfloat16)[0],
        dynamic={(0, 0)},
    )
    launches = list_launches(code)
    (symbol,) = set(re.findall(r"\bs\d+\b", " ".join(arguments[-3] for _, arguments in launches)))
    grids = [_python_of(arguments[-3]) for _, arguments in launches]
    warps = re.findall(r"configs=\[\{'num_warps': (\d+)", code)
    assert len(launches) > 1 and len(set(warps)) > 1
    for rows in (1, 2, 3, 8, 9, 32, 33, 100, 128, 129, 512, 513, 2048, 2049, 5000, 100_000):
        sizes = [eval(grid, {symbol: rows, "max": max, "min": min}) for grid in grids]
        assert sum(size > 0 for size in sizes) == 1, (rows, sizes)
    # Outputs are allocated once, whatever is launched.
    assert len({tuple(arguments[:4]) for _, arguments in launches}) == 1


def _python_of(expression):
    expression = re.sub(r"static_cast<int64_t>|std::|(?<=\d)L\b", "", expression)
    return re.sub(r"c10::div_floor_integer\((.*?), (\d+)\)", r"((\1) // \2)", expression)


def product(a, w, a_scale, w_scale):
    return scaled_mm(a, w, a_scale, w_scale, None, torch.bfloat16, True, "torch")


def operands(m=16, n=512, k=1024):
    return torch.empty(m, k, dtype=E4M3), torch.empty(n, k, dtype=E4M3), torch.empty(m), torch.empty(n)


def use_config(monkeypatch, kernel, folder, config):
    table = kernel.new_table([folder])
    a, w, a_scale, w_scale = operands()
    table.add([Row(kernel.case(a, w, a_scale, w_scale, None, torch.bfloat16, True, "torch"), config)], H200)
    monkeypatch.setitem(vars(kernel), "table", table)


@cpp_without_gpu
def test_zeroed_workspace_is_filled_once_a_graph(monkeypatch, tmp_path):
    config = {"block_sizes": [64, 16, 4, 256], "num_warps": 4, "num_stages": 2, "prefetch": 0}
    use_config(monkeypatch, scaled_mm, tmp_path, config)

    def twice(a, w, a_scale, w_scale):
        return product(a, w, a_scale, w_scale) + product(a, w, a_scale, w_scale)

    code = write_cpp(monkeypatch, twice, *operands())
    one, other = list_launches(code)
    tickets, slices = one[1][1], one[1][3]
    assert (other[1][1], other[1][3]) == (tickets, slices) and tickets != slices
    assert len(re.findall(r"^def _helion_scaled_mm\(", code, re.MULTILINE)) == 1, "one kernel for both"
    assert "call_triton_poi_fused" in code.partition(f"{slices}, ")[0]


def test_a_library_that_the_table_names_is_called_by_its_operator(monkeypatch, tmp_path):
    use_config(monkeypatch, scaled_mm, tmp_path, {"fallback": "library"})
    code = write_cpp(monkeypatch, product, *operands())
    assert not list_launches(code) and "aoti_torch_cuda__scaled_mm_out" in code


def test_a_host_function_that_computes_is_refused_with_a_sentence(monkeypatch):
    def reference(x):
        return x * 2 + 1

    @helion_compile.kernel(reference=reference, name="test_computes_on_the_host")
    def computes(x):
        doubled = x * 2
        out = torch.empty_like(x)
        for tile in hl.tile(x.size()):
            out[tile] = doubled[tile] + 1
        return out

    with pytest.raises(Exception, match=r"test_computes_on_the_host cannot be launched without Python: its host function"):
        write_cpp(monkeypatch, lambda x: computes(x), x())
    assert issubclass(PackageError, NotImplementedError)


def test_notes_say_what_is_taken_for_a_range_and_what_the_table_has(monkeypatch):
    """The product of few tokens is the kernel's, of many the library's, and one of them is taken."""
    found = []
    monkeypatch.setattr("tests.support.absent_gpu.GraphLowering", _Stop)

    def note(a, w, w_scale):
        return product(a, w, a.view(torch.float32)[:, 0].clone(), w_scale)

    _Stop.found = found
    a, w, _, w_scale = operands()
    with pytest.raises(StopIteration):
        write_cpp(monkeypatch, note, a, w, w_scale, dynamic={(0, 0)})
    (text,) = found
    assert text.startswith("scaled_mm at ") and "configs for all sizes, where the table has a config from " in text
    assert "library from 65" in text


class _Stop:
    """Takes the place of Inductor's lowering."""

    found: list

    def __init__(self, module, **_):
        self.found += check_graph(module.graph)
        raise StopIteration
