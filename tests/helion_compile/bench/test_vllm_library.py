# SPDX-License-Identifier: Apache-2.0
"""The calls of vLLM's operators in ``bench kernels``: they fit the schemas, and give results in the shapes of the kernel's."""

import pytest
import torch

from helion_compile.bench.subjects import SUBJECTS
from helion_compile.bench.vllm_library import OPERATORS
from tests.support.vllm import ops as vllm_ops  # noqa: F401  defines the operators that nobody has defined


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_takes_what_the_kernel_takes(name):
    subject = SUBJECTS[name]
    run, prepare = OPERATORS[name]
    with torch.device("meta"):
        fields = next(iter(subject.fields(4096)))
        arguments = subject.arguments(subject.case(fields, 8), torch.device("meta"))
        ours = subject.kernel.flatten_results(subject.kernel.reference(*arguments))
        results = run(*prepare(*arguments))
    results = results if isinstance(results, tuple) else (results,)
    for theirs, own in zip(results, ours, strict=False):
        assert (theirs.shape, theirs.dtype) == (own.shape, own.dtype)
