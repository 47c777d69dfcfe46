# SPDX-License-Identifier: Apache-2.0
"""A table can choose another way than the kernel's; launches on CPU tensors through stand-ins (launch_stub)."""

import pytest
import torch

from helion_compile import Configs, kernel
from helion_compile.configs.case import Case
from helion_compile.configs.gpu import Gpu
from helion_compile.configs.row import Row
from helion_compile.configs.table import ConfigTable
from helion_compile.errors import UnpreparedCaptureError
from helion_compile.runtime.call_site import CallSite
from helion_compile.runtime.call_target import Fallback, make_call_target
from tests.support.launch_stub import StubKernel, host_of, install

H200 = Gpu("NVIDIA H200", (9, 0))


def _reference(x):
    return torch.zeros(8, dtype=torch.int64)


def _library(x, *, out=None):
    called.append(out)
    if out is None:
        return torch.full((8,), 7)
    out[0].fill_(7)


def _other_library(x, *, out=None):
    raise AssertionError("no row names it")


called = []


@kernel(
    reference=_reference,
    case=lambda x: Case(num_tokens=x.size(0)),
    fallbacks={"other_library": _other_library, "library": _library},
    configs=Configs(default=lambda case: {"fallback": "library"} if case.get("num_tokens", 0) > 64 else None),
)
def test_fallbacks_stub(x):
    raise AssertionError("no test runs it")


test_fallbacks_stub.__test__ = False


@pytest.fixture
def stub(monkeypatch, tmp_path):
    called.clear()
    device = StubKernel(6)
    install(monkeypatch, lambda kernel, args, config: host_of(device))
    table = ConfigTable("test_fallbacks_stub", default=test_fallbacks_stub.configs.default, folders=[tmp_path])
    monkeypatch.setattr(test_fallbacks_stub, "table", table)
    test_fallbacks_stub.plans.clear()
    yield test_fallbacks_stub
    test_fallbacks_stub.plans.clear()


def row(tokens, config):
    return Row(Case(num_tokens=tokens), config, 1.0, {}, {})


def site():
    return CallSite(test_fallbacks_stub.key, 1, 1, lambda x: (x,))


def test_without_a_table_the_default_config_chooses(stub):
    assert not torch.equal(stub(torch.ones(16, 3)), torch.full((8,), 7)) and called == []
    assert torch.equal(stub(torch.ones(65, 3)), torch.full((8,), 7)) and called == [None]


def test_a_row_of_the_table_chooses_by_the_number_of_tokens(stub):
    stub.table.add([row(16, {"fallback": "library"}), row(128, {"num_warps": 4})], H200)
    results = {tokens: stub(torch.ones(tokens, 3)) for tokens in (4, 16, 100)}
    assert len(called) == 2
    assert [torch.equal(result, torch.full((8,), 7)) for result in results.values()] == [True, True, False]


def test_generated_code_lets_it_write_to_its_own_buffers(stub):
    call_site, out = site(), torch.zeros(8, dtype=torch.int64)
    for _ in range(2):
        call_site.call(torch.ones(65, 3), out)
    assert torch.equal(out, torch.full((8,), 7)) and [given[0] is out for given in called] == [True, True]


def test_a_capture_may_meet_it_first_and_nothing_else(stub, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert torch.equal(stub(torch.ones(65, 3)), torch.full((8,), 7))
    with pytest.raises(UnpreparedCaptureError):
        stub(torch.ones(16, 3))


def test_a_row_that_names_an_unknown_one_is_skipped(stub, caplog):
    stub.table.add([row(16, {"fallback": "magic"})], H200)
    stub(torch.ones(16, 3))
    assert called == [] and "a row names a fallback 'magic', and fallbacks= has none such" in caplog.text


def test_an_unknown_one_in_the_default_config_is_the_authors_error(stub, monkeypatch):
    monkeypatch.setattr(stub, "fallbacks", {})
    with pytest.raises(ValueError, match="Configs.default names a fallback 'library', and fallbacks= has none such"):
        stub(torch.ones(65, 3))


def test_a_change_of_the_table_is_a_change_of_the_choice(stub):
    stub.table.on_change(stub.plans.clear)
    x = torch.ones(16, 3)
    assert not torch.equal(stub(x), torch.full((8,), 7))
    stub.table.add([row(16, {"fallback": "library"})], H200)
    assert torch.equal(stub(x), torch.full((8,), 7))


def test_a_kernel_that_writes_to_its_arguments_has_none():
    def writes(x):
        return None

    with pytest.raises(TypeError, match="has no fallbacks"):
        kernel(reference=lambda x: None, mutates=("x",), fallbacks={"library": _library})(writes)


def test_what_a_site_replays_is_what_it_was_told(stub):
    assert type(make_call_target(stub, (torch.ones(65, 3),), stub.plans, "facts")) is Fallback
