# SPDX-License-Identifier: Apache-2.0
"""What a type checker knows of the public names: read by ``make typecheck``, never run."""

from typing import TYPE_CHECKING, Any

import torch

import helion_compile
from helion_compile import Case, CheckResult, check, kernel
from helion_compile.passes.match.chain import Chain
from helion_compile.passes.semantics import Norm, Quantize

if TYPE_CHECKING:
    from typing_extensions import assert_type


def double(x: torch.Tensor, times: int = 2) -> torch.Tensor:
    return x * times


@kernel(reference=double, name="doubled", case=lambda x, times: Case(num_tokens=x.shape[0]))
def decorated(x: torch.Tensor, times: int = 2) -> torch.Tensor:
    return x * times


def plain(x: Any) -> tuple[int, str]:
    return 1, ""


# A kernel is called as its function is, and gives what that gives.
assert_type(decorated(torch.ones(1), times=3), torch.Tensor)
assert_type(kernel(reference=plain)(plain)(1), tuple[int, str])
assert_type(kernel(plain, reference=plain)(1), tuple[int, str])
kernel(plain, reference=plain)(1, 2)  # type: ignore[call-arg]
kernel(plain, reference=plain)(y=1)  # type: ignore[call-arg]
kernel(reference=plain)(3)  # type: ignore[arg-type]
kernel(plain, referense=plain)  # type: ignore[call-overload]
helion_compile.kernel(plain, reference=plain, mutates=1)  # type: ignore[call-overload]
assert_type(check(decorated, torch.ones(1), rtol=1e-3, atol=1e-3), CheckResult)
assert_type(check(decorated, torch.ones(1)).mistakes, tuple[str, ...])


def attributes(chain: Chain) -> None:
    assert_type(chain[Norm].op, Norm)
    assert_type(chain[Quantize].op, Quantize)
