# SPDX-License-Identifier: Apache-2.0
"""Four quantisers that look alike.  One is fused; of the others the report says what is in the way and what would fuse.

python examples/why_was_it_not_fused.py
"""

import torch

import helion_compile

FP8_MAX = 448.0


def quantize(x):
    """One scale per token, as torchao writes it: this fuses."""
    scale = (x.abs().amax(-1, keepdim=True) / FP8_MAX).float()
    return (x.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def scaled_in_bf16(x):
    """The division rounds to bf16 before the cast does: another function, which no kernel of ours computes."""
    scale = x.abs().amax(-1, keepdim=True) / FP8_MAX
    return (x / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale.float()


def read_as_numbers(x):
    """Something besides a matmul reads the bytes, and could tell a last bit that moved."""
    q, scale = quantize(x)
    return q, scale, torch.topk(q.float(), 4)


def scale_of_something_else(x):
    """The scale is that of another tensor."""
    scale = ((x + 1).abs().amax(-1, keepdim=True) / FP8_MAX).float()
    return (x.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def main():
    torch.manual_seed(0)
    x = torch.randn(16, 256, dtype=torch.bfloat16)
    for function in (quantize, scaled_in_bf16, read_as_numbers, scale_of_something_else):
        report = helion_compile.explain(function, x)
        print(f"--- {function.__name__}: {'fused' if report.sites else 'not fused'}")
        for refusal in report.refusals:
            print(f"at      {refusal.location.source}, node {refusal.node}")
            print(f"near    {refusal.near}; missing: {', '.join(refusal.missing)}")
            print(f"found   {refusal.found}")
            print(f"fuses   {refusal.remedy}")
        print()


if __name__ == "__main__":
    main()
