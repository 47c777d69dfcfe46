# SPDX-License-Identifier: Apache-2.0
"""Public functions given what they cannot take: each answers with a sentence of its own, never with an error from inside."""

import inspect
import traceback

import pytest
import torch

import helion_compile
from helion_compile import Case, Configs, KernelArgumentError, Report, Tuning, check, debug, explain, report, warm_up
from helion_compile.configs.table import ConfigTable, Gpu, Row
from helion_compile.definitions import registry
from helion_compile.kernels import norm_quant, quant
from helion_compile.tune.cases import cases_of, read_model, read_shapes, read_tokens
from tests.support import ROOT
from tests.support.small_kernels import add

X = torch.ones(4, 4)
H200 = Gpu("NVIDIA H200", (9, 0))
CASE = Case(num_tokens=16)
ROW = Row(CASE, {"num_warps": 4})
ODD = {
    "None": None,
    "a number": 3,
    "a negative": -1,
    "a float": 1.5,
    "a text": "x",
    "bytes": b"x",
    "a list": [1],
    "a dict": {1: 2},
    "an object": object(),
    "a tensor": X,
    "NaN": float("nan"),
}


def define(**options):
    def made_here(x):
        raise AssertionError("it is not called")

    return helion_compile.kernel(made_here, **{"reference": lambda x: x.clone(), **options})


def tokens(count):
    return X, X


# What is given, and which of the odd values are right there.
CALLS = {
    "kernel(fn)": (lambda odd: helion_compile.kernel(odd, reference=torch.clone), {"None"}),
    "kernel(name)": (lambda odd: define(name=odd), {"None", "a text"}),
    "kernel(reference)": (lambda odd: define(reference=odd), ()),
    "kernel(case)": (lambda odd: define(case=odd), {"None"}),
    "kernel(check_supported)": (lambda odd: define(check_supported=odd), {"None"}),
    "kernel(mutates)": (lambda odd: define(mutates=odd), ()),
    "kernel(configs)": (lambda odd: define(configs=odd), ()),
    "kernel(tuning)": (lambda odd: define(tuning=odd), ()),
    "kernel(fallbacks)": (lambda odd: define(fallbacks=odd), {"None"}),
    "kernel(fallbacks={name: …})": (lambda odd: define(fallbacks={"library": odd}), ()),
    "kernel(zeroed_workspace)": (lambda odd: define(zeroed_workspace=odd), ()),
    "Configs(default)": (lambda odd: define(configs=Configs(default=odd)), {"None"}),
    "Configs(bucketed)": (lambda odd: define(configs=Configs(bucketed=odd)), ()),
    "Configs(nearest)": (lambda odd: define(configs=Configs(nearest=odd)), {"None"}),
    "Tuning(inputs)": (lambda odd: define(tuning=Tuning(inputs=odd)), {"None"}),
    "check_supported's answer": (lambda odd: define(check_supported=lambda x: odd)(X), {"None"}),
    "reference's result": (lambda odd: define(reference=lambda x: odd)(X), {"None", "a tensor"}),
    "case's answer": (lambda odd: define(case=lambda x: odd).pick((X,)), ()),
    "Configs.default's answer": (
        lambda odd: define(configs=Configs(default=lambda case: odd)).table.pick(CASE, H200),
        {"None", "a dict"},
    ),
    "Configs(adapt)": (lambda odd: define(configs=Configs(adapt=odd)), {"None"}),
    "Tuning(candidates)": (lambda odd: define(tuning=Tuning(candidates=odd)), {"None"}),
    "reference's arguments": (lambda odd: add(odd, X), {"a number", "a negative", "a float", "a tensor", "NaN"}),
    "case's arguments": (lambda odd: add.pick((odd, X)), ()),
    "pick(args)": (add.pick, ()),
    "require_supported(args)": (add.require_supported, {"a list"}),
    "check(kernel)": (lambda odd: check(odd, X, X), ()),
    "check(rtol)": (lambda odd: check(add, X, X, rtol=odd, atol=odd), {"None", "a number", "a float"}),
    "check(raise_exception)": (lambda odd: check(add, X, X, raise_exception=odd), ()),
    "call(name)": (lambda odd: helion_compile.call(odd, X), ()),
    "call(…, args)": (lambda odd: helion_compile.call("quant", odd), ()),
    "quant(x)": (lambda odd: quant(odd, None, None, "", False), ()),
    "quant(quantizer)": (lambda odd: quant(X, None, None, odd, False), ()),
    "Gpu(name)": (lambda odd: Gpu(odd), ()),
    "Gpu(capability)": (lambda odd: Gpu("NVIDIA H200", odd), ()),
    "Gpu(vendor)": (lambda odd: Gpu("NVIDIA H200", (9, 0), odd), {"a text"}),
    "Case(field)": (lambda odd: Case(field=odd), {"None", "a number", "a negative", "a float", "a text"}),
    "Case.from_json": (Case.from_json, ()),
    "Case.without": (CASE.without, ()),
    "Row(case)": (lambda odd: Row(odd, {}), ()),
    "Row(config)": (lambda odd: Row(CASE, odd), {"a dict"}),
    "Row(us)": (lambda odd: Row(CASE, {}, us=odd), {"None", "a number", "a float"}),
    "ConfigTable(kernel)": (ConfigTable, {"a text"}),
    "ConfigTable(bucketed)": (lambda odd: ConfigTable("a", bucketed=odd), ()),
    "ConfigTable(default)": (lambda odd: ConfigTable("a", default=odd), {"None"}),
    "ConfigTable(folders)": (lambda odd: ConfigTable("a", folders=odd), {"None"}),
    "ConfigTable(kernel_fingerprint)": (lambda odd: ConfigTable("a", kernel_fingerprint=odd), {"None", "a text"}),
    "ConfigTable(adapt)": (lambda odd: ConfigTable("a", adapt=odd), {"None"}),
    "Row(file)": (lambda odd: Row(CASE, {}, file=odd), {"None", "a text"}),
    "Row(index)": (lambda odd: Row(CASE, {}, index=odd), {"a number", "a negative"}),
    "ConfigTable.pick(case)": (lambda odd: ConfigTable("a").pick(odd, H200), {"a list", "a dict"}),  # not hashable: Python's
    "ConfigTable.pick(gpu)": (lambda odd: ConfigTable("a").pick(CASE, odd), {"a list", "a dict"}),
    "ConfigTable.rows": (lambda odd: ConfigTable("a").rows(odd), ()),
    "ConfigTable.add(rows)": (lambda odd: ConfigTable("a", folders=["/nowhere"]).add(odd, H200), ()),
    "ConfigTable.add(gpu)": (lambda odd: ConfigTable("a", folders=["/nowhere"]).add([ROW], odd), ()),
    "ConfigTable.mark_broken": (lambda odd: ConfigTable("a").mark_broken(odd, "reason"), ()),
    "ConfigTable.on_change": (lambda odd: ConfigTable("a").on_change(odd), ()),
    "warm_up(what)": (lambda odd: warm_up(odd, [1]), ()),
    "warm_up(tokens)": (lambda odd: warm_up(add, odd, tokens), {"a number", "a list", "a dict", "bytes"}),
    "warm_up([tokens])": (lambda odd: warm_up(add, [odd], tokens), {"a number"}),
    "warm_up(inputs)": (lambda odd: warm_up(add, [1], odd), ()),
    "warm_up({kernel: inputs})": (lambda odd: warm_up({add: odd}, [1]), ()),
    "warm_up(inputs' answer)": (lambda odd: warm_up(add, [1], lambda count: odd), ()),
    "warm_up(between)": (lambda odd: warm_up(add, [1], tokens, between=odd), ()),
    "warm_up(unaligned)": (lambda odd: warm_up(add, [1], tokens, unaligned=odd), ()),
    "warm_up(workers)": (lambda odd: warm_up(add, [1], tokens, workers=odd), {"None", "a number"}),
    "explain(model)": (explain, ()),
    "explain(verify)": (lambda odd: explain(add, X, X, verify=odd), ()),
    "explain(dynamic)": (lambda odd: explain(add, X, X, dynamic=odd), {"None"}),
    "explain({name: …})": (lambda odd: explain(add, X, X, options={odd: 1}), {"a list", "a dict", "a text"}),
    "explain(options)": (lambda odd: explain(add, X, X, options=odd), {"None", "a dict"}),
    "report(compiled)": (report, ()),
    "debug(folder)": (lambda odd: debug(odd).__enter__(), {"a text"}),
    "Report(graphs)": (Report, ()),
    "Report.to_json": (lambda odd: Report(()).to_json(odd), {"None", "a number", "a negative"}),
    "Report.to_html": (lambda odd: Report(()).to_html(odd), {"None", "a text"}),
    "get_kernel": (registry.get_kernel, ()),
    "read_model": (read_model, ()),
    "read_tokens": (read_tokens, ()),
    "read_shapes": (read_shapes, ()),
    "cases_of(kernel)": (lambda odd: cases_of(odd, [], [], (1,), "bf16"), ()),
    "cases_of(layers)": (lambda odd: cases_of(quant, odd, [], (1,), "bf16"), ()),
}


def raised_on_purpose(error):
    """Whether the innermost frame is a ``raise`` of ours."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    statement = "".join(inspect.linecache.getline(last.filename, line) for line in (last.lineno - 1, last.lineno))
    return last.filename.startswith(str(ROOT)) and "raise " in statement


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_a_wrong_type_is_a_sentence(name):
    call, right = CALLS[name]
    for what, odd in ODD.items():
        if what not in right:
            with pytest.raises((TypeError, ValueError, RuntimeError, LookupError)) as caught:
                call(odd)
            assert raised_on_purpose(caught.value), (what, caught.value)


def test_what_was_asked_what_was_found_and_what_to_do():
    with pytest.raises(TypeError, match=r"made_here: mutates=3, where a tuple of names belongs, such as mutates=\('x',\)"):
        define(mutates=3)
    with pytest.raises(TypeError, match=r"made_here: case is 3, of type int; pass a function that takes \(x\)"):
        define(case=3)
    with pytest.raises(TypeError, match=r"Gpu\(capability=…\) is 9; give \(major, minor\), such as \(9, 0\)"):
        Gpu("NVIDIA H200", 9)
    with pytest.raises(TypeError, match="warm_up.*is 3, of type int; give a function that takes a number of tokens"):
        warm_up(add, [1], 3)
    with pytest.raises(TypeError, match="kernel.. was given colour=; it takes name, reference"):
        define(colour="red")
    with pytest.raises(KernelArgumentError, match=r"quant\(x.*\) was called with wrong arguments"):
        helion_compile.call("quant", X)


@pytest.mark.parametrize(
    "call",
    [
        lambda none: define(configs=Configs(default=none)),
        lambda none: define(configs=Configs(adapt=none)),
        lambda none: define(tuning=Tuning(inputs=none)),
        lambda none: define(tuning=Tuning(shapes=none)),
        lambda none: define(tuning=Tuning(candidates=none)),
        lambda none: warm_up(add, [1], none),
        lambda none: warm_up(none, [1], tokens),
    ],
)
def test_a_function_of_other_arguments_is_found_where_it_is_given(call):
    with pytest.raises(TypeError, match=r"takes \(\); give "):
        call(lambda: None)


def test_what_no_type_tells():
    with pytest.raises(ValueError, match="debug.folder. is 'a.x00b', with a character that no path has; give the folder"):
        debug("a\0b").__enter__()
    with pytest.raises(ValueError, match=r"report.to_html\(file=…\) is 'a.x00b', with a character"):
        Report(()).to_html("a\0b")
    with pytest.raises(ValueError, match=r"report.to_json\(indent=…\) is 1000000*….* give at most 80 spaces"):
        Report(()).to_json(10**400)
    rows = torch.ones(4, 64)
    args = (rows, torch.ones(4), None, None, None, None, 1e-6, "rms", "float8_e4m3fn", False, False)
    reason = norm_quant.check_supported(*args)
    assert reason == "weight is [4] and x [4, 64]; it takes one element for each of 64 in a row"
    reason = norm_quant.check_supported(rows, torch.ones(64), None, rows[:1], *args[4:])
    assert reason == "residual is [1, 64] and x [4, 64]; both must have one shape"


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize(
    "reference",
    [lambda x: x[x > 0], torch.Tensor.nonzero, lambda x: x.clone() if x.sum() > 0 else -x],
    ids=["mask", "nonzero", "if"],
)
def test_a_result_that_depends_on_values_is_a_sentence(reference, dynamic):
    made = define(reference=lambda x: reference(x))
    with pytest.raises(Exception, match="made_here: the reference .*depends on (the )?values"):
        torch.compile(made, backend="eager", fullgraph=True, dynamic=dynamic)(X)


def test_a_number_that_is_read_off_a_tensor_decides_nothing_while_tracing():
    made = define(reference=lambda x: x * x.sum().item())
    assert torch.equal(torch.compile(made, backend="eager", fullgraph=True)(X), X * 16)


@pytest.mark.parametrize("odd", [torch.nested.nested_tensor([X, X]), torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)])
def test_tensors_that_are_no_plain_memory(odd):
    with pytest.raises(KernelArgumentError, match="a kernel reads plain memory. Pass the plain tensors"):
        add(odd, odd)
