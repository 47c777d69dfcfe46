# SPDX-License-Identifier: Apache-2.0
"""A wrong kernel is caught, named and left out; a right one stays."""

import logging

import pytest
import torch

import helion_compile
from helion_compile import explain, fusions, report
from tests.support import planted
from tests.support.corpus.quantisers import torchao_row
from tests.support.needs import row_wise_products

torch.manual_seed(0)
X, Y = torch.randn(64, 64).bfloat16(), torch.randn(64, 64).bfloat16()


@pytest.fixture(autouse=True)
def no_cache():
    """A graph from a cache of an earlier run is not read, and so not in a report."""
    with torch._inductor.config.patch(fx_graph_cache=False):
        yield


@pytest.fixture
def plant(monkeypatch):
    """Puts a wrong kernel in front of the right ones."""
    return lambda how, *others: monkeypatch.setattr(fusions, "CATALOGUE", (planted.as_catalogue(how), *others))


@pytest.mark.parametrize("how", planted.WRONG)
def test_explain_tells_of_it(plant, how):
    plant(how)
    (fused,) = explain(torchao_row, X, verify=True).sites
    broken = [compared for compared in fused.verified if compared.broken]
    assert [compared.output for compared in broken] == ["scale" if how == "scale_of_the_next_row" else "q"]
    assert "broken" in str(explain(torchao_row, X, verify=True))
    assert not explain(torchao_row, X).sites[0].verified


@pytest.mark.parametrize("how", planted.WRONG)
def test_verify_puts_the_original_back(plant, how, caplog):
    plant(how)

    def program(x):
        return torchao_row(x * 1.5)

    compiled = torch.compile(program, backend="helion", options={"verify": True})
    q, scale = compiled(X)
    expected = torch.compile(program, backend="inductor")(X)
    assert torch.equal(q.view(torch.uint8), expected[0].view(torch.uint8)) and torch.equal(scale, expected[1])
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING and "planted" in record.message)
    assert f"planted_{how}@" in warning.message and "quantisers.py:" in warning.message
    told = report(compiled)
    (refusal,) = told.refusals
    assert not told.sites and refusal.candidate == "planted"
    assert (
        refusal.found.startswith(f"verify ran tests.support.planted::planted_{how}@")
        and refusal.remedy == "a kernel that keeps to it fuses"
    )


def test_without_verify_it_stays(plant):
    plant("one_element_far_off")
    compiled = torch.compile(torchao_row, backend="helion")
    assert compiled(X)[0].view(torch.uint8)[-1, -1] == 0x40
    assert len(report(compiled).sites) == 1


def test_another_fusion_may_take_what_was_put_back_and_is_checked_too(plant):
    from helion_compile.fusions import quant

    plant("nan", quant)
    compiled = torch.compile(torchao_row, backend="helion", options={"verify": True})
    compiled(X)
    (fused,) = report(compiled).sites
    assert fused.site.fusion == "quant" and [compared.output for compared in fused.verified] == ["q", "scale"]
    assert not any(compared.broken for compared in fused.verified)


def test_only_the_broken_site_is_put_back(plant):
    """The last element of x is what the planted kernel gives anyway, so only y's site is broken."""
    plant("one_element_far_off")

    def program(x, y):
        return (*torchao_row(x), *torchao_row(y))

    x = X.clone()
    x[-1] = 0
    x[-1, 0], x[-1, -1] = 448.0, 2.0  # 2.0 is 0x40
    compiled = torch.compile(program, backend="helion", options={"verify": True})
    compiled(x, Y)
    told = report(compiled)
    assert len(told.sites) == 1 and len(told.refusals) == 1


def test_each_graph_is_checked_on_its_first_call(plant, caplog):
    plant("scale_of_the_next_row")
    compiled = torch.compile(torchao_row, backend="helion", options={"verify": True}, dynamic=False)
    compiled(X)
    compiled(X[:32])
    assert sum("planted" in record.message for record in caplog.records if record.levelno == logging.WARNING) == 2
    assert len(report(compiled).graphs) == 2


def test_what_is_right_stays_and_is_told():
    compiled = torch.compile(torchao_row, backend="helion", options={"verify": True}, dynamic=True)
    torch._dynamo.mark_static(X, 1)
    compiled(X)
    (fused,) = report(compiled).sites
    assert [compared.output for compared in fused.verified] == ["q", "scale"]


def test_checking_changes_neither_arguments_nor_random_numbers():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            x.mul_(2)
            return torchao_row(x + torch.randn(()).to(x.dtype))

    results = []
    for options in ({}, {"verify": True}):
        torch.compiler.reset()
        model, x = Counting(), X.clone()
        torch.manual_seed(7)
        with torch.no_grad():
            results.append((torch.compile(model, backend="helion", options=options)(x), model.calls, x))
    for found, expected in zip(*map(torch.utils._pytree.tree_leaves, results), strict=True):
        assert torch.equal(found.float(), expected.float())


def scaled_for_itself_where_zero(x):
    """As CompressedTensorsFP8Linear does; the kernel's scale of a row of zeros is another, which products do not see."""
    amax = x.float().abs().amax(-1)
    scale = torch.where(amax > 0, amax, torch.ones_like(amax)) / 448.0
    q = (x.float() / scale.unsqueeze(-1)).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
    w = torch.ones(64, 64).to(torch.float8_e4m3fn).t()
    return torch._scaled_mm(q, w, scale.unsqueeze(-1), torch.ones(1, 64), out_dtype=torch.bfloat16)


@row_wise_products
def test_the_scale_of_a_row_of_zeros_is_not_compared_where_only_products_read_it():
    x = X.clone()
    x[1] = 0
    (fused,) = explain(scaled_for_itself_where_zero, x, verify=True).sites
    assert [compared.output for compared in fused.verified] == ["q", "scale"]
    assert not any(compared.broken for compared in fused.verified)


@row_wise_products
def test_the_scales_of_other_rows_are(plant):
    plant("scale_of_the_next_row")
    x = X.clone()
    x[1] = 0
    (fused,) = explain(scaled_for_itself_where_zero, x, verify=True).sites
    assert any(compared.broken for compared in fused.verified)


def test_where_fp64_cannot_say(monkeypatch):
    """An operation without an fp64 form leaves the original as the only measure."""
    monkeypatch.setattr("helion_compile.verify.run.in_fp64", lambda module, inputs: None)
    (fused,) = explain(torchao_row, X, verify=True).sites
    assert all(compared.sqnr is None and not compared.broken for compared in fused.verified)


def test_a_bad_option():
    with pytest.raises(TypeError, match=r"options\['verify'\] is 1; it is True or False"):
        helion_compile.frontend.options.Options.split({"verify": 1})
