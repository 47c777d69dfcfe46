# SPDX-License-Identifier: Apache-2.0
"""From the words of a command line to the command that they name; no command is imported for another."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence

__all__ = ["COMMANDS", "main"]

# command -> module whose main(argv) runs it, and what it does
COMMANDS = {
    "bench chains": ("helion_compile.bench.chains", "norm, quantiser and matmul against Inductor and the library"),
    "bench kernels": (
        "helion_compile.bench.kernels",
        "each kernel against Inductor, vLLM and the library, on this GPU",
    ),
    "bench layers": ("helion_compile.bench.layers", "decoder layers of a Hugging Face Qwen3, compiled by both backends"),
    "bench launch": ("helion_compile.bench.launch", "host time of a call"),
    "bench pick": ("helion_compile.bench.pick", "host time of choosing a config"),
    "bench plot": ("helion_compile.bench.plot", "pictures of rows that were measured before"),
    "bench random": (
        "helion_compile.bench.random_shapes",
        "shapes drawn at random, most of them in no table, against Inductor",
    ),
    "bench matching": ("helion_compile.bench.matching", "what the pass takes for graphs of up to 100 000 nodes"),
    "bench vllm": ("helion_compile.bench.vllm", "a Qwen3 in vLLM, with our pass and without"),
    "configs import": ("helion_compile.cli.import_configs", "take over config files of vLLM"),
    "configs pack": ("helion_compile.cli.pack_code", "generated code of a run goes beside the shipped tables"),
    "configs restamp": ("helion_compile.tune.restamp", "rows of shipped tables for kernels whose code did not change"),
    "env": ("helion_compile.cli.env", "versions, GPU, tables, and what is on: for a bug report"),
    "explain": ("helion_compile.cli.explain", "what is fused in a Hugging Face model, what is not, and why"),
    "tune": ("helion_compile.tune.__main__", "measure configs on this GPU and write the tables"),
}
_HELP = ("-h", "--help")
_VERSION = ("-V", "--version")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv``, by default the command line, names; its exit status, 2 where there is no such command."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name, (module, _) in COMMANDS.items():
        if words[: len(name.split())] == name.split():
            return importlib.import_module(module).main(words[len(name.split()) :])
    group = {name: command for name, command in COMMANDS.items() if name.split()[:1] == words[:1]}
    rest = words[1:] if group else words
    if rest[:1] and rest[0] in _HELP:
        print(_usage(group or COMMANDS))
        return 0
    if words[:1] and words[0] in _VERSION:
        print(f"helion-compile {_version()}")
        return 0
    print(_complaint(words, rest, group), _usage(group or COMMANDS), sep="\n\n", file=sys.stderr)
    return 2


def _complaint(words: list[str], rest: list[str], group: Mapping[str, object]) -> str:
    if not rest:
        return f"helion_compile: which command{f' of {words[0]}' if group else ''}?"
    asked = " ".join(words[:2] if group else words[:1])
    # By the word that is wrong: in a group its commands come first.
    known = {name.split()[0]: name.split()[0] for name in COMMANDS} | {name.split()[-1]: name for name in COMMANDS}
    near = difflib.get_close_matches(rest[0], [name.split()[-1] for name in group] or known, n=1)
    near = near or difflib.get_close_matches(rest[0], known, n=1)
    hint = f"; did you mean {known[near[0]]!r}?" if near else "."
    return f"helion_compile: there is no command {asked!r}{hint}"


def _usage(commands: Mapping[str, tuple[str, str]]) -> str:
    width = max(map(len, commands))
    lines = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in commands.items())
    return f"usage: python -m helion_compile COMMAND …\n\ncommands, each with a --help of its own:\n{lines}"


def _version() -> str:
    try:
        return importlib.metadata.version("helion-compile")
    except importlib.metadata.PackageNotFoundError:
        return "is not installed, but imported from a folder"
