# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile configs restamp``: shipped rows of a kernel whose sources changed and whose code did not.

A row names the version of the kernel that it was measured with, a digest of the sources, which a rename changes.  Here the
code of every row is generated from the sources of then and of now.  Where all of a kernel's rows have the same code and
launches, but for names and comments, they get the version of now; otherwise they stay as they are, and are to be tuned again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click

from helion_compile.cli.options import command, count
from helion_compile.configs.files import TableFile, shipped_folder, table_files
from helion_compile.configs.row import Row
from helion_compile.definitions import registry
from helion_compile.definitions.spec import KernelSpec
from helion_compile.tune import generate
from helion_compile.tune.compiling import SHIPPED_TARGETS, Target, representative
from helion_compile.tune.same_code import find_difference

__all__ = ["Job", "Stale", "ask", "describe_difference", "find_stale", "main", "restamp"]


class Job(NamedTuple):
    """Code to generate: of the kernel whose configs have this fingerprint, for a case and a config."""

    fingerprint: str
    case: dict[str, Any]
    config: dict[str, Any]


class Stale(NamedTuple):
    """A table with rows of another version of its kernel."""

    kernel: KernelSpec
    file: TableFile

    @property
    def rows(self) -> list[Row]:
        return [row for row in self.file.rows if row.kernel != self.kernel.config_fingerprint]

    def jobs(self) -> list[Job]:
        """What to generate of the stale rows, each once: sizes that a launch takes as they come make no other code."""
        found: dict[str, Job] = {}
        for row in self.rows:
            if "fallback" not in row.config:  # a library's: no code of ours
                case = representative(row.case, self.kernel.configs.bucketed).to_json()
                job = Job(row.kernel or "", case, dict(row.config))
                found.setdefault(_text(job), job)
        return _in_order(found.values())


def _text(job: Job) -> str:
    return json.dumps(job, sort_keys=True)


def _in_order(jobs: Iterable[Job]) -> list[Job]:
    """Those of one case together: it is traced once."""
    return sorted(jobs, key=_text)


@command("configs restamp", __doc__, examples=["helion-compile configs restamp --against main"])
@click.option("--against", required=True, metavar="REVISION", help="git revision whose kernels the rows are for")
@click.option("--sample", type=count, default=0, metavar="N", help="compare N configs a table and write nothing")
def main(options: SimpleNamespace) -> int:
    """Run the command; 0 when all rows are for the kernels of now."""
    stale = find_stale(shipped_folder())
    if not stale:
        print("All rows are for the kernels of now.")
        return 0
    with checkout(options.against) as old:
        differences = restamp(stale, old, options.sample)
    for table, difference in zip(stale, differences, strict=True):
        print(f"{table.file.path.parent.name}/{table.file.path.name}: {difference or 'equal'}")
    return 1 if any(differences) else 0


def find_stale(folder: Path) -> list[Stale]:
    names = sorted(path.name for path in folder.glob("*") if path.is_dir())
    tables = [Stale(registry.get_kernel(name), file) for name in names for file in table_files([folder], name)]
    return [table for table in tables if table.rows]


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The sources of a git revision of this repository, in a temporary folder."""
    repository = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", revision], cwd=repository, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def restamp(tables: Sequence[Stale], old: Path, sample: int = 0) -> list[str | None]:
    """Give the rows of each table the fingerprint of now, if their code is what the sources in ``old`` make of them.

    Args:
        sample: compare as many configs a table, chosen at random, and write nothing.

    Returns:
        What differs, in one line for each table; None where nothing does.
    """
    jobs = [table.jobs() for table in tables]
    if sample:
        jobs = [_in_order(random.sample(each, min(sample, len(each)))) for each in jobs]
    made = iter(_differences(tables, jobs, old))
    answers = []
    for table, each in zip(tables, jobs, strict=True):
        found = [(job, what) for job, what in zip(each, itertools.islice(made, len(each)), strict=True) if what]
        answer = None if each else "no row has code to compare"
        if found:
            job, what = found[0]
            answer = f"{len(found)} of {len(each)} configs have other code, first {job.config} for {job.case}: {what}"
        if answer is None and not sample:
            _write(table)
        answers.append(answer)
    return answers


def _differences(tables: Sequence[Stale], jobs: Sequence[Sequence[Job]], old: Path) -> list[str | None]:
    """Of each job, one table after the other, how its code of now differs; both states are asked once, side by side."""
    targets = [SHIPPED_TARGETS[table.file.gpu] for table, each in zip(tables, jobs, strict=True) for _ in each]
    before = [job for each in jobs for job in each]
    after = [
        job._replace(fingerprint=table.kernel.config_fingerprint)
        for table, each in zip(tables, jobs, strict=True)
        for job in each
    ]
    found: list[str | None] = [None] * len(before)
    for target in set(targets):
        places = [place for place, each in enumerate(targets) if each == target]
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            one = threads.submit(ask, old, target, [before[place] for place in places])
            other = threads.submit(ask, Path(__file__).parents[2], target, [after[place] for place in places])
        for place, made_before, made_now in zip(places, one.result()["made"], other.result()["made"], strict=True):
            found[place] = describe_difference(made_before, made_now)
    return found


def ask(root: Path, target: Target, jobs: Sequence[Job]) -> dict[str, Any]:
    """What :func:`helion_compile.tune.generate.generate_all` answers from the sources in ``root``."""
    asked = {"target": target, "jobs": [job._asdict() for job in jobs]}
    done = subprocess.run(
        [sys.executable, "-c", Path(generate.__file__).read_text()],  # which has the folder it runs in first in its path
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    if not Path(answer["root"]).resolve().is_relative_to(root.resolve()):
        raise RuntimeError(f"the sources in {root} were asked, and those in {answer['root']} answered")
    return answer


def describe_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """How what was made of a job now differs from what was made before, in one line; None where it does not."""
    for side, made in (("before", one), ("now", other)):
        if "error" in made:
            return f"{side} there is none: {made['error']}"
    return find_difference(one["source"], other["source"]) or (
        None if one["launches"] == other["launches"] else f"launched was {one['launches']}, and is {other['launches']}"
    )


def _write(table: Stale) -> None:
    """Put the fingerprint into the file and change no other byte."""
    text = table.file.content.decode()
    for old in {row.kernel for row in table.rows}:
        text = text.replace(f'"kernel": "{old}"', f'"kernel": "{table.kernel.config_fingerprint}"')
    table.file.path.write_bytes(text.encode())
