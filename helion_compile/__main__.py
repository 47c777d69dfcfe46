"""``python -m helion_compile COMMAND``, installed as ``helion-compile COMMAND`` too."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

# command -> module whose main(argv) runs it, and what it does
COMMANDS = {
    "bench chains": ("helion_compile.bench.chains", "norm, quantiser and product against Inductor and the library"),
    "bench kernels": (
        "helion_compile.bench.kernels",
        "each kernel against Inductor, vLLM and the library, on this GPU",
    ),
    "bench layers": ("helion_compile.bench.layers", "decoder layers of a Hugging Face Qwen3, compiled by both backends"),
    "bench launch": ("helion_compile.bench.launch", "host time of a call"),
    "bench pick": ("helion_compile.bench.pick", "host time of choosing a config"),
    "bench plot": ("helion_compile.bench.plot", "pictures of rows that were measured before"),
    "bench reading": ("helion_compile.bench.reading", "what the pass takes for graphs of up to 100 000 nodes"),
    "bench vllm": ("helion_compile.bench.vllm", "a Qwen3 in vLLM, with our pass and without"),
    "configs import": ("helion_compile.configs.import_vllm", "take over config files of vLLM"),
    "configs restamp": ("helion_compile.tune.restamp", "rows of shipped tables for kernels whose code did not change"),
    "env": ("helion_compile.cli.env", "versions, GPU, tables, and what is on: for a bug report"),
    "explain": ("helion_compile.cli.explain", "what is fused in a Hugging Face model, what is not, and why"),
    "tune": ("helion_compile.tune.__main__", "measure configs on this GPU and write the tables"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv``, by default the command line, names; its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = next((name for name in COMMANDS if argv[: len(name.split())] == name.split()), None)
    if name is None:
        known = "\n".join(f"  python -m helion_compile {name:16} {text}" for name, (_, text) in COMMANDS.items())
        if argv[:1] in (["-h"], ["--help"]):
            print(f"Commands, each with a --help of its own:\n{known}")
            return 0
        asked = " ".join(argv) or "nothing"
        print(f"There is no command in {asked!r}. Commands:\n{known}", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[name][0]).main(argv[len(name.split()) :])


if __name__ == "__main__":
    raise SystemExit(main())
