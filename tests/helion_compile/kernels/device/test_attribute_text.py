"""Attributes as text: read back as they were written, equal where they are equal."""

import pytest
import torch

from helion_compile.kernels.device.attribute_text import dtype_named, read, write
from helion_compile.kernels.device.normalize import Normalization, normalization
from helion_compile.kernels.device.quantize_attrs import Quantization, quantization


def test_what_has_its_default_is_not_written():
    assert write("rms", a=None, b=False, c=True, d=1e-6, e=(-448.0, 448.0), f=torch.bfloat16) == (
        "rms c d=1e-06 e=-448:448 f=bfloat16"
    )
    assert quantization(torch.int8, qmax=127.0, scale_dtype=torch.float32) == "int8"
    assert normalization(residual_multiplier=1, weight_offset=0) == "rms"


@pytest.mark.parametrize("value", [1 / 3, 1 / (448.0 * 512.0), 1e-12, 127.5, 0.22])
def test_numbers_keep_every_bit(value):
    assert Quantization(quantization(torch.int8, scale_floor=value)).scale_floor == value
    assert Normalization(normalization(residual_multiplier=value)).residual_multiplier == value


def test_every_attribute_is_read_back():
    given = {
        "qmax": 240.0,
        "clamp": (-240.0, 240.0),
        "use": "factor",
        "scale_dtype": torch.bfloat16,
        "division": "tensor",
        "amax_ceiling": 6.0,
        "amax_floor": 1e-12,
        "scale_floor": 1e-5,
        "group": 128,
        "ue8m0": True,
        "layout": "tma_aligned",
        "zero_point": False,
    }
    how = Quantization(quantization(torch.float8_e4m3fn, **given))
    assert {name: getattr(how, name) for name in given} == given
    assert how.dtype == torch.float8_e4m3fn
    given = {
        "cast_then_scale": True,
        "dtype": torch.float32,
        "root": "sqrt",
        "factor_dtype": torch.bfloat16,
        "weight_offset": 1.0,
        "residual_multiplier": 0.22,
        "unrounded_sum": True,
    }
    how = Normalization(normalization("layer", **given))
    assert {name: getattr(how, name) for name in given} == given
    assert how.kind == "layer"


def test_unknown_words_are_errors():
    with pytest.raises(ValueError, match="'rms colour=red' has 'colour=red'"):
        read("rms colour=red", "size")
    with pytest.raises(ValueError, match="'float7' is no dtype"):
        dtype_named("float7")
