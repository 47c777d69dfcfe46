# SPDX-License-Identifier: Apache-2.0
"""A Helion function of your own as one node of PyTorch's graphs.

    python examples/your_own_kernel.py

Without a GPU the node runs the kernel's reference; the graph is the same.  ``check`` runs the body there too, and holds it
against the reference; docs/your-own-kernel.md has more.
"""

import helion.language as hl
import torch

import helion_compile


def silu_mul_reference(gate, up):
    """The same function in plain torch: shapes while tracing, results on a CPU, expected values in tests."""
    return (torch.nn.functional.silu(gate.float()) * up.float()).to(gate.dtype)


def silu_mul_case(gate, up):
    """The key fields on which the best config depends; configs are tuned and looked up by them."""
    return helion_compile.Case(hidden_size=gate.size(1), num_tokens=gate.size(0), dtype=gate.dtype)


def silu_mul_check_supported(gate, up):
    """Why the kernel cannot take these arguments, or None."""
    if gate.shape != up.shape:
        return f"gate is {tuple(gate.shape)} and up {tuple(up.shape)}; they must have one shape"
    return None


@helion_compile.kernel(reference=silu_mul_reference, case=silu_mul_case, check_supported=silu_mul_check_supported)
def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    m, k = gate.size()
    k = hl.specialize(k)
    out = torch.empty([m, k], dtype=gate.dtype, device=gate.device)
    for rows in hl.tile(m):
        x = gate[rows, :].to(torch.float32)
        out[rows, :] = (x * torch.sigmoid(x) * up[rows, :].to(torch.float32)).to(gate.dtype)
    return out


class Mlp(torch.nn.Module):
    """The feed-forward block of a Llama, with the kernel in the middle."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(hidden, inner, bias=False)
        self.up = torch.nn.Linear(hidden, inner, bias=False)
        self.down = torch.nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(silu_mul(self.gate(x), self.up(x)))


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mlp = Mlp(256, 1024).to(device, torch.bfloat16)
    x = torch.randn(16, 256, device=device, dtype=torch.bfloat16)
    print(helion_compile.check(silu_mul, x, x))
    with torch.no_grad():
        graph = torch.export.export(mlp, (x,)).graph_module
        print(graph.print_readable(print_output=False))
        result = torch.compile(mlp, fullgraph=True)(x)
        torch.testing.assert_close(result, mlp(x))
    try:
        silu_mul(x, x[:8])
    except helion_compile.KernelArgumentError as error:
        print(error)


if __name__ == "__main__":
    main()
