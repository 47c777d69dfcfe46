# SPDX-License-Identifier: Apache-2.0
"""``check`` finds what would otherwise wait for a GPU, and says of each what was asked, what was found and what to do."""

import pickle

import helion
import helion.language as hl
import pytest
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

import helion_compile
from helion_compile import Case, Configs, KernelArgumentError, KernelCheckError, Tuning, check
from helion_compile.checking.result import Outcome
from helion_compile.kernels import quant
from tests.support.small_kernels import accumulate, add, affine, bump, fill_optional, last_dim_contiguous, split_sign

X = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))


def plus_one(x):
    return x + 1


def body(x):
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        out[tile] = x[tile] + 1
    return out


def specialised(x):
    m, k = x.size()
    k = hl.specialize(k)
    out = torch.empty([m, k], dtype=x.dtype, device=x.device)
    for rows in hl.tile(m):
        out[rows, :] = x[rows, :] + 1
    return out


def a_kernel(fn=body, reference=plus_one, name="plus_one", **options):
    return helion_compile.kernel(fn, reference=reference, name=f"test_check::{name}", **options)


def steps(result):
    return {step.name: step for step in result.steps}


def find_mistakes(kernel, *args, **options):
    """The sentences by step, as one text each."""
    result = check(kernel, *args, raise_exception=False, **options)
    return {step.name: " ".join(step.mistakes) for step in result.steps if step.mistakes}


# --- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel, args",
    [
        (affine, (X, None, 3.0)),
        (split_sign, (X.bfloat16(),)),
        (bump, (X,)),
        (accumulate, (X, X)),
        (fill_optional, (X, X.clone())),
        (last_dim_contiguous, (X[:, :8],)),
    ],
    ids=lambda value: getattr(value, "bare_name", ""),
)
def test_right_kernels_pass_every_step_and_their_arguments_stay(kernel, args):
    before = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
    result = check(kernel, *args)
    assert not result.mistakes and {step.outcome for step in result.steps} == {Outcome.PASSED}
    assert "Helion's interpreter, on a CPU; and with 12 where the call has 6" in steps(result)["body"].found
    assert all(torch.equal(a, b) for a, b in zip(args, before, strict=True) if isinstance(a, torch.Tensor))


def test_arguments_of_inference_mode_and_parameters():
    with torch.inference_mode():
        x = torch.randn(3, 4)
        check(bump, x)
    check(add, x, torch.nn.Parameter(torch.ones(3, 4)))


def test_sizes_of_earlier_checks_do_not_count():
    def check_rows(x, scale):
        return None if statically_known_true(scale.numel() == x.size(0)) else "scale takes one element for each row"

    def scaled(x, scale):
        out = torch.empty_like(x)
        for tile in hl.tile(x.size()):
            out[tile] = x[tile] * scale[tile[0]][:, None]
        return out

    kernel = a_kernel(scaled, lambda x, scale: x * scale[:, None], name="scaled_rows", check_supported=check_rows)
    for rows in (6, 3, 6):
        check(kernel, X[:rows], X[:rows, 0].contiguous())


def test_what_the_interpreter_lacks_is_not_checked_and_no_mistake():
    result = check(quant, *quant.tuning.make_inputs(Case(dtype="bf16", group=128, hidden_size=256, num_tokens=4), X.device))
    assert steps(result)["body"].outcome is Outcome.SKIPPED and "check it on a GPU" in steps(result)["body"].found
    assert "body             not checked: Helion's interpreter cannot run it" in str(result)


# --- the mistakes of authors ------------------------------------------------------------------------------------------


def test_all_mistakes_are_one_error_that_has_the_result():
    def wrong(x):
        out = torch.empty_like(x)
        for tile in hl.tile(x.size()):
            out[tile] = x[tile] + 1
            x[tile] = x[tile] * 0
        return out

    kernel = a_kernel(wrong, lambda x: (x + 1).sum(-1), name="wrong", case=lambda x: {"num_tokens": 3})
    with pytest.raises(KernelCheckError) as error:
        check(kernel, X)
    text = str(error.value)
    assert "test_check::wrong@" in text and "3 mistakes" in text
    assert "The result is of shape [6, 16] from the body and [6] from the reference. Make both alike" in text
    assert "The body wrote to the argument 'x', and mutates=() does not name it" in text
    assert "It gives {'num_tokens': 3}, of type dict. Give a helion_compile.Case, such as Case(num_tokens=x.size(0))" in text
    assert error.value.result.mistakes and isinstance(error.value, AssertionError)
    assert pickle.loads(pickle.dumps(error.value)).result == error.value.result


@pytest.mark.parametrize(
    "reference, sentence",
    [
        (lambda x: (x + 1).bfloat16(), "The result is of float32 from the body and bfloat16 from the reference"),
        (lambda x: (x + 1).t().contiguous().t(), r"The result has strides \(16, 1\) from the body and \(1, 6\)"),
        (lambda x: (x + 1, x - 1), "The body gives 1 tensors and the reference 2. Return the same from both"),
        (
            lambda x: x + 1.001,
            r"has other values: 100.00% of .* at \[\d, \d+\], .* \(allowed: 64 steps of float32\). Mend the",
        ),
        (lambda x: torch.where(x == x[0, 0], torch.nan, x + 1), r"has other values: 1.04% of .* at \[0, 0\], .* and nan from"),
    ],
    ids=["dtype", "strides", "number", "values", "nan"],
)
def test_results_that_differ(reference, sentence):
    with pytest.raises(KernelCheckError, match=sentence):
        check(a_kernel(reference=lambda x: reference(x)), X)


def test_what_a_reference_may_not_do():
    def writes(x):
        x[0] = 3
        return x + 1

    found = find_mistakes(a_kernel(reference=writes, name="writes"), X)
    assert "The reference wrote to the argument 'x'" in found["reference"]
    assert (
        "The reference returns its argument 'x' or a view of it"
        in find_mistakes(a_kernel(reference=lambda x: x), X)["reference"]
    )
    found = find_mistakes(a_kernel(reference=lambda x: (x, 3)), X)
    assert "a tuple of two or more tensors, or None; got a tuple of 2 elements (Tensor, int)" in found["reference"]
    found = find_mistakes(a_kernel(reference=lambda x: torch.from_numpy(x.numpy() + 1)), X)
    assert list(found) == ["fake tensors"]
    found = find_mistakes(a_kernel(reference=lambda x: x + 1 if x.sum() > 99 else x.add(1)), X)
    assert "the reference depends on the values of its arguments" in found["fake tensors"]
    found = find_mistakes(a_kernel(reference=lambda x: x.no_such_thing()), X)
    assert "It fails with AttributeError at " in found["reference"] and "test_check.py:" in found["reference"]


def test_what_a_body_may_not_do():
    def fails(x):
        out = torch.empty_like(x)
        for tile in hl.tile(x.size()):
            out[tile] = x[tile].no_such_thing()
        return out

    def returns_its_argument(x):
        for tile in hl.tile(x.size()):
            x[tile] = x[tile] + 1
        return x

    def of_six_rows(x):
        out = torch.ones_like(x)
        for tile in hl.tile([6, x.size(1)]):
            out[tile] = x[tile] + 1
        return out

    found = find_mistakes(a_kernel(fails, name="fails"), X)
    assert "It fails with AttributeError at " in found["body"] and "Helion makes no code of the body" in found["code"]
    found = find_mistakes(a_kernel(returns_its_argument, name="inplace", mutates=("x",)), X)
    assert "The body returns its argument 'x' or a view of it" in found["body"]

    def by_rows(x):
        out = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
        flat = x.view(-1)
        for tile in hl.tile(x.numel()):
            out[tile] = flat[tile] + 1
        return out.view(x.size())

    found = find_mistakes(a_kernel(by_rows, name="by_rows"), X)
    assert "With the last two dimensions exchanged in memory: It fails with RuntimeError at" in found["body"]
    found = find_mistakes(a_kernel(of_six_rows, name="six"), X)
    assert "With a size of 12 where the call has 6: The result has other values" in found["body"]


def test_what_is_declared_beside_them():
    def by_value(x):
        return Case(num_tokens=x.size(0), largest=int(x.max() > 2))

    refuses_fakes = a_kernel(check_supported=lambda x: "it is fake" if type(x) is not torch.Tensor else None)
    found = find_mistakes(refuses_fakes, X)
    assert "as fake tensors, which have no values, refuses them: 'it is fake'" in found["check_supported"]
    kernel = a_kernel(
        specialised,
        name="declared",
        case=lambda x: Case(num_tokens=x.size(0)),
        configs=Configs(bucketed=("tokens",), default=lambda case: {"block_sizes": [4, 4]}),
        tuning=Tuning(inputs=lambda case, device: (X[:2],)),
        fallbacks={"library": lambda x, out: x + 2},
    )
    found = find_mistakes(kernel, X)
    assert "for a size of 16 and of 32, and the body builds that size into its code (dimension 1 of 'x')" in found["case"]
    assert "Configs.bucketed names 'tokens', and the case has num_tokens. Name key fields" in found["configs"]
    assert "which Helion does not take for this kernel: Too many values for config['block_sizes']" in found["configs"]
    assert "asked for the case (num_tokens=6) and gives arguments of (num_tokens=2)" in found["tuning"]
    assert "from the fallback 'library' and" in found["fallbacks"] and "'library' with out= and" in found["fallbacks"]
    result = check(a_kernel(specialised, name="rows", case=lambda x: Case(k=x.size(1))), X)
    assert "float32 [6, 16]" in steps(result)["reference"].found and steps(result)["case"].found.endswith(
        "bfloat16 is the same case"
    )
    assert "other strides than the reference's, so such calls are launched more slowly" in steps(result)["body"].found
    found = find_mistakes(a_kernel(name="by_value", case=by_value), X)
    assert "depends on the values of its arguments" in found["case"] and "for which each call had to wait" in found["case"]


def test_a_function_without_source():
    text = "def body(x):\n    out = torch.empty_like(x)\n    for t in hl.tile(x.size()):\n        out[t] = x[t] + 1\n"
    text += "    return out\n"
    typed = {"torch": torch, "hl": hl, "__name__": "test_check"}
    exec(compile(text, "<string>", "exec"), typed)  # as `python -c` has it
    found = find_mistakes(a_kernel(typed["body"], name="typed"), X)
    assert found == {
        "code": "Python does not find the function's source, which Helion compiles. Put it into a file or a notebook."
    }


def test_a_lambda_is_refused_where_it_is_declared():
    with pytest.raises(TypeError, match=r"was given a lambda \(.*test_check.py:\d+\), and Helion compiles the statements"):
        helion_compile.kernel(lambda x: x, reference=plus_one, name="test_check::named")


# --- how far values may differ ----------------------------------------------------------------------------------------


def test_tolerances_are_steps_of_the_dtype_or_the_callers():
    def scaled(by):
        return a_kernel(reference=lambda x: (x.float() + 1).mul(by).to(x.dtype), name="scaled")

    assert not find_mistakes(scaled(1 + 2**-7), X.bfloat16())
    assert "body" in find_mistakes(scaled(1 + 2**-5), X.bfloat16())
    assert not find_mistakes(scaled(1 + 2**-5), X.bfloat16(), rtol=0.1, atol=0.0)
    assert "(allowed: rtol=0.001, atol=0)" in find_mistakes(scaled(1.01), X, rtol=1e-3, atol=0)["body"]
    counted = torch.arange(12).view(3, 4)
    assert not find_mistakes(a_kernel(), counted)
    assert "equal values" in find_mistakes(a_kernel(reference=lambda x: x + 2), counted)["body"]


def test_what_check_is_asked():
    with pytest.raises(TypeError, match=r"check\(kernel\) is 3, of type int; give what helion_compile.kernel"):
        check(3, X)
    with pytest.raises(ValueError, match="one of rtol= and atol=; give both"):
        check(add, X, X, rtol=1e-3)
    with pytest.raises(ValueError, match=r"check\(atol=-1\): give a number that is not negative"):
        check(add, X, X, rtol=1e-3, atol=-1)
    with pytest.raises(TypeError, match=r"check\(raise_exception=…\) is 'no'"):
        check(add, X, X, raise_exception="no")
    with pytest.raises(KernelArgumentError, match="was called with wrong arguments: missing a required argument: 'y'"):
        check(add, X)
    with pytest.raises(KernelArgumentError, match="last_dim_contiguous cannot take these arguments: the last dimension of x"):
        check(last_dim_contiguous, X.t())
    with pytest.raises(KernelArgumentError, match="was given no tensor; pass arguments as of a call"):
        check(affine, 3)


# --- what a helion.kernel brings --------------------------------------------------------------------------------------


def test_settings_that_cannot_hold_are_refused_or_said(caplog):
    configs = [helion.Config(block_sizes=[4, 4]), helion.Config(block_sizes=[8, 8])]
    with pytest.raises(
        TypeError, match="the helion.kernel has autotuner_fn=…, and Helion's tuner is never asked.* Leave it out"
    ):
        a_kernel(helion.kernel(body, autotuner_fn=lambda *args, **options: None))
    with pytest.raises(TypeError, match="has force_autotune=…"):
        a_kernel(helion.kernel(body, force_autotune=True))
    given = helion.kernel(body, configs=configs, static_shapes=True, autotune_ignore_errors=True, autotune_effort="none")
    kernel = a_kernel(given, name="given")
    assert "test_check::given: autotune_ignore_errors=… of the helion.kernel have no effect, since" in caplog.text
    assert "has static_shapes=True, Helion's default, so each new size is traced and compiled" in caplog.text
    assert [each["block_sizes"] for each in kernel.tuning.candidates(Case())] == [[4, 4], [8, 8]]
    check(kernel, X)


def test_a_given_kernel_for_all_sizes_keeps_them_apart_as_ours_do(caplog, monkeypatch):
    monkeypatch.setenv("HELION_INTERPRET", "1")  # is for Helion's own calls
    given = helion.kernel(body, static_shapes=False, fast_math=True, key=lambda x: x.size(1) > 8)
    kernel = a_kernel(given, name="given")
    assert (
        "helion.kernel" not in caplog.text
        and kernel.helion.settings.fast_math
        and given.settings.ref_mode is helion.RefMode.EAGER
    )
    one, many, wide = (kernel.helion.bind((torch.ones(shape),)) for shape in ((1, 4), (5, 4), (5, 16)))
    assert one is not many and many is not wide and kernel.helion.bind((torch.ones(6, 4),)) is many
    assert "@triton.jit" in many.to_triton_code(many.config_spec.default_config())
