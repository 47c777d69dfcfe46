# SPDX-License-Identifier: Apache-2.0
"""The commands by name; no command is imported for another, nor for the list of them."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import click

from helion_compile.cli.options import SETTINGS, run

__all__ = ["COMMANDS", "cli", "main"]

# command -> module whose `main` it is, and what it does
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
_GROUPS = {"bench": "benchmarks and their pictures", "configs": "tables of configs"}
_SHELLS = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/completions/helion-compile.fish"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv``, by default the command line, names; its exit status.

    Raises:
        SystemExit: there is no such command, or it does not take these words; both are said.
    """
    return run(cli, argv, prog="helion-compile")


class _Group(click.Group):
    """Commands that are imported when they run, or tell of themselves."""

    prefix = ""

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = [name.removeprefix(self.prefix) for name in COMMANDS if name.startswith(self.prefix)]
        return list(dict.fromkeys(name.split()[0] for name in own))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if not self.prefix and name in _GROUPS:
            group = _Group(name, help=f"{_GROUPS[name].capitalize()}.", context_settings=SETTINGS, no_args_is_help=True)
            group.prefix = f"{name} "
            return group
        module = COMMANDS.get(self.prefix + name)
        return importlib.import_module(module[0]).main if module else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands, each with a --help of its own"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items() if name.startswith(self.prefix)])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {self.prefix + args[0]!r}{self._hint(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def _hint(self, word: str) -> str:
        # By the word that is wrong: in a group its commands come first.
        own = [name.removeprefix(self.prefix) for name in COMMANDS if name.startswith(self.prefix)] if self.prefix else []
        known = {name.split()[0]: name.split()[0] for name in COMMANDS} | {name.split()[-1]: name for name in COMMANDS}
        near = difflib.get_close_matches(word, own, n=1) or difflib.get_close_matches(word, known, n=1)
        return f"; did you mean {known[near[0]]!r}?" if near else "."


def _print_version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"helion-compile {_version()}")
        ctx.exit()


def _print_completion(ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
    if shell:
        from click.shell_completion import get_completion_class

        complete = get_completion_class(shell)
        if complete is not None:
            click.echo(complete(cli, {}, "helion-compile", "_HELION_COMPILE_COMPLETE").source())
        ctx.exit()


@click.group(
    cls=_Group,
    context_settings=SETTINGS,
    no_args_is_help=True,
    epilog="Examples:\n\n\b\n"
    "  helion-compile explain --model Qwen/Qwen3-8B --quantize fp8-row --gpu h200 --html report.html\n"
    "  helion-compile tune norm_quant --model config.json --budget 10m\n"
    "  helion-compile env",
)
@click.option("-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print it.")
@click.option(
    "--completion",
    type=click.Choice(list(_SHELLS)),
    is_eager=True,
    expose_value=False,
    callback=_print_completion,
    help=f"Print what completes commands and options; it belongs into {', '.join(_SHELLS.values())}.",
)
def cli() -> None:
    """Helion kernels in torch.compile: what is fused in a model, configs for a GPU, benchmarks."""


def _version() -> str:
    try:
        return importlib.metadata.version("helion-compile")
    except importlib.metadata.PackageNotFoundError:
        return "is not installed, but imported from a folder"
