# SPDX-License-Identifier: Apache-2.0
"""``check(kernel, *args)``: the body against the reference, and all that is declared beside them, without a GPU too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from helion_compile.checking import declared, kernel_body, tracing
from helion_compile.checking.comparing import Tolerance
from helion_compile.checking.result import CheckResult, CheckStep
from helion_compile.checking.subject import Subject, copy_arguments
from helion_compile.definitions.arguments import check_types
from helion_compile.definitions.overlap import check_written_apart
from helion_compile.definitions.validation import describe_types
from helion_compile.errors import KernelArgumentError, KernelCheckError, check_flag, check_type
from helion_compile.helion_kernel import HelionKernel
from helion_compile.runtime.reference import needs_reference

__all__ = ["check"]


def check(
    kernel: HelionKernel,
    /,
    *args: Any,
    rtol: float | None = None,
    atol: float | None = None,
    raise_exception: bool = True,
    **kwargs: Any,
) -> CheckResult:
    """Run a kernel's body against its reference, and hold all that its author declared against both.

    On a CPU Helion's interpreter runs the body, and Helion makes its code; on a GPU the kernel is launched.  The arguments
    are copied first.  The steps, in order:

    ===============  ================================================================================================
    reference        it runs, gives new tensors, and writes to no argument that ``mutates`` does not name
    body             shapes, dtypes, strides and values are the reference's, for other sizes and strides too; no other writes
    code             Helion makes code of the body; only without a GPU, where nothing is compiled otherwise
    check_supported  it answers with a sentence or None, without looking at values
    case             it gives a ``Case``, without looking at values; other sizes that make other code are another case
    configs          names in ``Configs`` are key fields; the default config is one that Helion takes for this kernel
    tuning           ``Tuning.inputs`` gives arguments of the case that it is asked for
    fallbacks        each gives the reference's results, new ones and into ``out``
    fake tensors     the reference gives the same shapes, dtypes and strides while a graph is traced
    dynamic sizes    a compiled graph of a size that changes gives the reference's results for another one
    ===============  ================================================================================================

    Args:
        kernel: what :func:`helion_compile.kernel` made.
        args, kwargs: arguments of a call, on a CPU or a GPU.  Odd sizes, such as 17 rows, find more than even ones.
        rtol, atol: how far the body's values may be from the reference's, as in ``torch.testing.assert_close``; both or none.
            By default two steps of the result's dtype (64 in fp32 and fp64), as both round once or twice on the way, and
            2^-18 of the row's largest magnitude, as sums in fp32 may be taken in another order.  Integers must be equal.
        raise_exception: whether mistakes are raised, or only told by the result.

    Raises:
        KernelCheckError: there are mistakes; its text lists all of them, its ``result`` is what would be returned.
        KernelArgumentError: the kernel takes no such arguments.
    """
    check_type("check(kernel)", kernel, HelionKernel, "what helion_compile.kernel(…) made")
    check_flag("check(raise_exception=…)", raise_exception)
    tolerance = Tolerance.of(rtol, atol)
    bound = kernel.bind_arguments(args, kwargs)
    check_types(kernel, bound)
    if not any(isinstance(arg, torch.Tensor) for arg in bound):
        raise KernelArgumentError(f"check({kernel.short_name}, …) was given no tensor; pass arguments as of a call.")
    with torch.no_grad():
        plain = tuple(arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in bound)
        check_written_apart(kernel, plain)
        with torch.inference_mode(False):
            plain = copy_arguments(plain)  # such as no step's tracing refuses
        subject = Subject(kernel, plain, tolerance, on_gpu=not needs_reference(plain))
        result = CheckResult(kernel.short_key, describe_types(plain), tuple(_steps(subject)))
    if result.mistakes and raise_exception:
        raise KernelCheckError(str(result), result)
    return result


def _steps(subject: Subject) -> Iterator[CheckStep]:
    supported = declared.check_support(subject)
    yield supported
    if supported.mistakes:
        return
    reference = kernel_body.check_reference(subject)
    yield reference
    yield kernel_body.check_body(subject)
    yield kernel_body.check_code(subject)
    yield declared.check_case(subject)
    yield declared.check_configs(subject)
    yield declared.check_tuning(subject)
    yield declared.check_fallbacks(subject)
    traced = tracing.check_fake(subject)
    yield traced
    if not reference.mistakes and not traced.mistakes:
        yield tracing.check_dynamic(subject)
