# SPDX-License-Identifier: Apache-2.0
"""Options of the backend: what is chosen with them, and what cannot be asked for."""

import pytest
import torch
import torch._inductor.compile_fx

import helion_compile.frontend.backend
from helion_compile.frontend.options import Options
from helion_compile.fusions import fusions
from tests.support.corpus.quantisers import torchao_row
from tests.support.logged_model import arguments, model

pytestmark = pytest.mark.usefixtures("small_programs")


NAMES = ", ".join(repr(fusion.name) for fusion in fusions())


class TestOptions:
    def test_inductors_own_pass_through(self, summary, monkeypatch):
        seen = []
        real = torch._inductor.compile_fx.compile_fx

        def watched(*args, config_patches=None, **kwargs):  # calls itself once the patches are made
            seen.append(config_patches)
            return real(*args, config_patches=config_patches, **kwargs)

        monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", watched)
        assert summary(options={"epilogue_fusion": False, "numerics": "exact"}).startswith("1 x norm_quant")
        assert seen[0]["epilogue_fusion"] is False
        assert "numerics" not in seen[0]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"disable": ["quant"]}, "1 x norm_quant, 1 x Quantize unfused ("),
            ({"only": ["norm_quant"]}, "1 x norm_quant, 1 x Quantize unfused ("),
            ({"disable": ["norm_quant"]}, "2 x quant, 1 x RMSNorm unfused ("),
            ({"only": ["quant"], "disable": ["quant"]}, "nothing fused, 1 x RMSNorm unfused, 2 x Quantize unfused ("),
            ({"only": []}, "nothing fused, "),
            ({"only": None, "disable": None}, "1 x norm_quant, 1 x quant ("),
        ],
        ids=repr,
    )
    def test_choosing_fusions(self, options, expected, summary):
        assert summary(options={**options, "numerics": "exact"}).startswith(expected)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("1", "nothing fused, 1 x RMSNorm unfused, 2 x Quantize unfused ("),
            ("norm_quant", "2 x quant, 1 x RMSNorm unfused ("),
            ("quant, norm_quant", "nothing fused, "),
            ("0", "1 x norm_quant, 1 x quant ("),
            ("", "1 x norm_quant, 1 x quant ("),
        ],
    )
    def test_choosing_fusions_in_the_environment(self, value, expected, summary, monkeypatch):
        monkeypatch.setenv("HELION_COMPILE_DISABLE", value)
        assert summary(options={"numerics": "exact"}).startswith(expected)

    def test_the_report_names_the_switch(self, monkeypatch):
        monkeypatch.setenv("HELION_COMPILE_DISABLE", "quant")
        assert "Left out as asked: quant. The options 'disable' and 'only'" in str(helion_compile.explain(model, *arguments()))

    def test_the_environment_names_no_fusion(self, monkeypatch):
        monkeypatch.setenv("HELION_COMPILE_DISABLE", "quant,yes")
        with pytest.raises(ValueError, match="DISABLE names yes, which is no fusion; it is 1, or names of .*norm_quant"):
            helion_compile.explain(model, *arguments())

    @pytest.mark.parametrize(
        ("options", "error", "sentence"),
        [
            ({"numerics": "fast"}, ValueError, "options['numerics'] is 'fast'; it can be 'default' or 'exact'."),
            ({"strict": "yes"}, TypeError, "options['strict'] is 'yes'; it is True or False."),
            (
                {"disable": "quant"},
                TypeError,
                "options['disable'] is 'quant'; give a list of fusion names, such as ['quant'].",
            ),
            ({"only": 3}, TypeError, "options['only'] is 3; give a list of fusion names, such as ['quant']."),
            (
                {"disable": ["qaunt"]},
                ValueError,
                f"disable=['qaunt']: no fusion is called 'qaunt'; there are {NAMES}",
            ),
            (
                {"only": ["norm", "quant"]},
                ValueError,
                f"only=['norm', 'quant']: no fusion is called 'norm'; there are {NAMES}",
            ),
            ({"numeric": "exact"}, ValueError, "options has 'numeric', which is no option of backend='helion' (numerics, "),
            ({"numeric": "exact"}, ValueError, "did you mean 'numerics'?"),
            ({"epilogue_fuson": True}, ValueError, "did you mean 'epilogue_fusion'?"),
            ({"epilogue_fusion": "yes"}, RuntimeError, "Unexpected type of attr epilogue_fusion"),
            ("exact", TypeError, "options is a str; give a dict, such as {'numerics': 'exact'}."),
        ],
        ids=repr,
    )
    def test_what_cannot_be_asked_for(self, options, error, sentence):
        with pytest.raises(error) as raised:
            helion_compile.frontend.backend.helion(torch.fx.symbolic_trace(torchao_row), [], options=options)
        assert sentence in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_torch_compile_shows_the_sentence(self):
        with pytest.raises(Exception, match="it can be 'default' or 'exact'"):
            torch.compile(model, backend="helion", options={"numerics": "fast"})(*arguments())

    def test_nothing_given(self):
        for options in (None, {}):
            assert Options.split(options) == (Options(), {})
