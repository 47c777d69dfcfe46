"""What a type checker knows of the public names: read by ``make typecheck``, never run."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import helion_compile
from helion_compile import Case, HelionKernel, kernel
from helion_compile.passes.match.chain import Chain
from helion_compile.passes.semantics import Norm, Quantize

if TYPE_CHECKING:
    from typing_extensions import assert_type


def double(x: Any) -> Any:
    return x * 2


@kernel(reference=double, name="doubled", case=lambda x: Case(num_tokens=x.shape[0]))
def decorated(x: Any) -> Any:
    return x * 2


assert_type(decorated, HelionKernel)
assert_type(kernel(double, reference=double), HelionKernel)
assert_type(kernel(reference=double), Callable[[Callable[..., Any]], HelionKernel])
kernel(double, referense=double)  # type: ignore[call-overload]
helion_compile.kernel(double, reference=double, mutates=1)  # type: ignore[call-overload]


def attributes(chain: Chain) -> None:
    assert_type(chain[Norm].op, Norm)
    assert_type(chain[Quantize].op, Quantize)
