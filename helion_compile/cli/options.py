# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common: how they are declared, called and end, and options that several of them take.

A command is a function of its options, below ``@command`` and click's own decorators.  Called with the words of a command line
it gives the exit status.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

__all__ = ["Command", "SETTINGS", "Several", "command", "count", "json_option", "output_file", "several"]

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110}


class Several(click.Option):
    """An option with one value or more behind it: ``--m 1 16 256``."""


class Command(click.Command):
    """A command that is called with words and gives its exit status; it may have options of the class :class:`Several`."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        return run(self, argv, prog=f"helion-compile {self.name}")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {name for param in self.params if isinstance(param, Several) for name in param.opts}
        words: list[str] = []
        given = None  # the option whose values follow
        for index, word in enumerate(args):
            if word.startswith("-") and not _is_number(word):
                given = word if word in names else None
                if given and (index + 1 == len(args) or args[index + 1].startswith("--")):
                    words.append(word)  # click says that a value is missing
                continue_with = [] if given else [word]
            else:
                continue_with = [given, word] if given else [word]
            words += continue_with
        return super().parse_args(ctx, words)


def run(command: click.Command, argv: Sequence[str] | None, prog: str) -> int:
    """Run ``command``; its exit status.

    Raises:
        SystemExit: with status 2 where the words are not as it takes them, which is said.
    """
    try:
        code = command.main(None if argv is None else list(argv), prog_name=prog, standalone_mode=False)
    except click.ClickException as error:
        error.show(sys.stderr)
        raise SystemExit(error.exit_code) from None
    except click.Abort:
        return 130
    return code or 0


def command(name: str, help: str, *, examples: Sequence[str] = ()) -> Callable[[Callable[..., int]], Command]:
    """Decorate a function of the options, as attributes of one object, which returns the exit status."""
    epilog = "Examples:\n\n\b\n" + "\n".join(f"  {example}" for example in examples) if examples else None
    told = re.sub(r"^``[^`]+``: ", "", help).replace("``", "")
    told = " ".join(told.split())

    def decorate(function: Callable[..., int]) -> Command:
        def callback(**options: Any) -> int:
            for param in click.get_current_context().command.params:
                if param.name in options and (param.nargs == -1 or getattr(param, "multiple", False)):
                    options[param.name] = list(options[param.name])
            return function(SimpleNamespace(**options))

        callback.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        about: dict[str, Any] = {"help": told[0].upper() + told[1:], "epilog": epilog, "context_settings": SETTINGS}
        return click.command(name, cls=Command, **about)(callback)

    return decorate


def several(*names: str, **about: Any) -> Callable[[Any], Any]:
    """Like ``click.option``, for one value or more behind one name."""
    return click.option(*names, cls=Several, multiple=True, **about)


def json_option(help: str) -> Callable[[Any], Any]:
    return click.option("--json", type=output_file, metavar="FILE", help=help)


def count(text: Any) -> int:
    """A number of things of which there has to be one."""
    if not (str(text).isdecimal() and int(text) > 0):
        raise click.BadParameter(f"{text!r} is no count; give 1 or more")
    return int(text)


def output_file(text: str | Path) -> Path:
    """A file that can be written, so that nothing is computed for one that cannot."""
    file = Path(text)
    if file.is_dir():
        found = "it is a folder"
    elif file.exists() and not os.access(file, os.W_OK):
        found = "it is read-only"
    elif not file.exists() and not os.access(file.parent, os.W_OK):
        found = f"there is no folder {file.parent} that can be written to"
    else:
        return file
    raise click.BadParameter(f"{file} cannot be written, {found}; name a file in a folder that is there")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
