# SPDX-License-Identifier: Apache-2.0
"""ConfigTable: which config a kernel runs with for a case on a GPU, and where that config came from."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from helion_compile.configs.case import Case
from helion_compile.configs.files import TableFile, kernel_folder, shipped_folder, table_files, user_folder, write_rows
from helion_compile.configs.gpu import Gpu, arch_of, name_similarity
from helion_compile.configs.lookup import CaseIndex, Match
from helion_compile.configs.row import ConfigError, Row
from helion_compile.errors import check_callable, check_names, check_type, truncate

__all__ = ["Case", "ConfigError", "ConfigTable", "Gpu", "Pick", "Row"]

log = logging.getLogger(__name__)

Origin: TypeAlias = Match | Literal["default"]

_REMEMBERED_PICKS = 1024  # a pick and its case take about 700 bytes, and making one anew 5 µs


class Pick(NamedTuple):
    """A config and where it came from.

    Attributes:
        config: what ``helion.Config(**config)`` takes, or None for Helion's default config. Treat it as read-only.
        origin: ``"exact"``, ``"bucketed"`` (rounded up), ``"nearest"`` or ``"default-case"`` when it is a row of a
            table; ``"default"`` when no table has a row for the case.
        row: the row, or None.
        case, gpu: what was asked.
        from_gpu: the GPU of the row's table as its file name has it, or None.
    """

    config: Mapping[str, Any] | None
    origin: Origin
    row: Row | None
    case: Case
    gpu: Gpu
    from_gpu: str | None = None

    @property
    def other_gpu(self) -> bool:
        """Whether the row was measured on another GPU, of the same architecture."""
        return self.from_gpu is not None and self.from_gpu != self.gpu.slug

    @property
    def sentence(self) -> str:
        """What a report says of this pick."""
        if self.row is None:
            source = "Helion's default config" if self.config is None else "the kernel's own default config"
            return f"no table has a row for ({self.case}) on {self.gpu.name}: {source}"
        how = {
            "exact": f"measured for ({self.case})",
            "bucketed": f"rounded up to ({self.row.case})",
            "nearest": f"nearest measured case is ({self.row.case}){', adapted' if self.config != self.row.config else ''}",
            "default-case": "the table's row for all other cases",
        }[self.origin]
        other = f", measured on {self.from_gpu}, also {self.gpu.arch}" if self.other_gpu else ""
        unsure = "" if self.row.kernel else ", for a kernel version that the table does not name"
        return f"{how}{other}{unsure}: {self.row.where}"


class ConfigTable:
    """The configs of one kernel, from the user's folder and from the shipped one.

    A pick takes, in this order: the row of this case; the row with the same exact key fields and the next larger bucketed
    ones; the nearest row; the row of the default case; the same again from the tables of other GPUs of the same
    architecture; what ``default`` gives; Helion's default. Of two rows for one case the one from the earlier folder
    counts. Files are read at the first pick, and again on :meth:`reload` or :meth:`add`.

    Nothing a file can hold makes a pick fail: what is damaged is passed over with one logged sentence, which
    :attr:`problems` keeps.

    Args:
        kernel: the kernel's name, which names the folder of its tables too.
        bucketed: the key fields that are rounded up to the next measured size. All others are exact.
        default: takes a case, gives the config to use when no table has one, or None for Helion's default.
        folders: where tables are looked for, the preferred and only written one first; by default
            ``HELION_COMPILE_CONFIG_DIR`` or the user's data folder, then the tables shipped with the package.
        nearest: the exact key fields that may differ in the nearest row, where none has those of a case; by default all
            that are numbers.  Empty where a config says nothing about other sizes.
        adapt: takes the config of the nearest row, its case and the one asked for, gives the config to use.
        kernel_fingerprint: the version of the kernel, or several whose configs are interchangeable. Rows of any other
            version are skipped; rows that do not say count after those that do.

    Raises:
        ConfigError: ``kernel`` is no kernel's name.
    """

    def __init__(
        self,
        kernel: str,
        bucketed: Sequence[str] = ("num_tokens",),
        default: Callable[[Case], Mapping[str, Any] | None] | None = None,
        folders: Sequence[Path | str] | None = None,
        kernel_fingerprint: str | Collection[str] | None = None,
        nearest: Collection[str] | None = None,
        adapt: Callable[[Mapping[str, Any], Case, Case], Mapping[str, Any]] | None = None,
    ) -> None:
        kernel_folder(Path(), kernel)  # a bad name is reported where it was given
        self.kernel = kernel
        self.bucketed = check_names("ConfigTable(bucketed", bucketed, "bucketed=('num_tokens',)")
        self.nearest = (
            None if nearest is None else frozenset(check_names("ConfigTable(nearest", nearest, "nearest=('k', 'n')"))
        )
        if default is not None:
            check_callable(
                "ConfigTable(default=…)", default, "a function that takes a case and gives a config, or None", takes=1
            )
        if adapt is not None:
            check_callable("ConfigTable(adapt=…)", adapt, "a function that takes a config and two cases, or None", takes=3)
        if isinstance(folders, (str, Path)):  # whose letters would be folders
            raise TypeError(
                f"ConfigTable(folders=…) is {truncate(folders)}; give a list of folders, such as [{truncate(folders)}]."
            )
        if folders is not None:
            check_type("ConfigTable(folders=…)", folders, Iterable, "a list of folders, such as ['tables']")
            folders = list(folders)
            for folder in folders:
                check_type("a folder in ConfigTable(folders=…)", folder, (str, Path), "a path")
        if not isinstance(kernel_fingerprint, str | None):
            kernel_fingerprint = check_names(
                "ConfigTable(kernel_fingerprint", kernel_fingerprint, "kernel_fingerprint='1f3a5c77'"
            )
        self.problems: list[str] = []
        self._default = default
        self._adapt = adapt
        self._folders = None if folders is None else tuple(map(Path, folders))
        self._versions = frozenset([kernel_fingerprint] if isinstance(kernel_fingerprint, str) else kernel_fingerprint or ())
        self._lock = threading.RLock()
        self._files: list[TableFile] | None = None
        self._indices: dict[Gpu, list[tuple[str, CaseIndex]]] = {}
        self._broken: dict[str, str] = {}
        self._watchers: list[Callable[[], None]] = []
        # The instance's pick is the class's, remembered: one call into C for a case seen before.
        self.pick = functools.lru_cache(_REMEMBERED_PICKS)(self.pick)  # type: ignore[method-assign]

    def pick(self, case: Case, gpu: Gpu) -> Pick:
        """The config for ``case`` on ``gpu``; it never fails for lack of a table."""
        check_type("the case of ConfigTable.pick", case, Case, "a Case, such as Case(num_tokens=16)")
        _check_gpu("pick", gpu)
        indices = self._indices.get(gpu)
        for from_gpu, index in self._index_rows(gpu) if indices is None else indices:
            if found := index.find(case):
                row, origin = found
                adapt = self._adapt if origin == "nearest" else None
                return Pick(adapt(row.config, row.case, case) if adapt else row.config, origin, row, case, gpu, from_gpu)
        config = self._default(case) if self._default else None
        if not isinstance(config, Mapping | None):
            raise TypeError(
                f"{self.kernel}: Configs.default gave {truncate(config)} for the case ({case}); it gives a config, such as "
                f"{{'num_warps': 4}}, or None."
            )
        return Pick(config, "default", None, case, gpu)

    def add(self, rows: Iterable[Row], gpu: Gpu) -> Path:
        """Puts rows measured on ``gpu`` into the user's table, safe against other writers and against dying half-way.

        Each replaces the row with its case and kernel fingerprint; all other rows stay. Returns the file.

        Raises:
            ConfigError: a row cannot be kept as JSON, or the table cannot be written; nothing was changed then.
        """
        _check_gpu("add", gpu)
        check_type("ConfigTable.add(rows)", rows, Iterable, "a list of Rows")
        checked = []
        for index, row in enumerate(rows):
            check_type(
                f"row {index} of ConfigTable.add", row, Row, "a Row, such as Row(Case(num_tokens=16), {'num_warps': 4})"
            )
            origin = {"gpu": gpu.name, "arch": gpu.arch}
            try:
                checked.append(replace(row, made_with={**origin, **row.made_with}).checked())
            except ConfigError as error:
                raise ConfigError(f"nothing was added for {self.kernel}: row {index} of those given {error}") from None
        path = write_rows(self.folders[0], self.kernel, gpu.slug, checked)
        self.reload()
        return path

    def mark_broken(self, row: Row, reason: str) -> None:
        """Skips ``row`` from now on in this process, with one warning: its config did not compile, say."""
        check_type("ConfigTable.mark_broken(row)", row, Row, "a Row, such as pick.row")
        check_type("ConfigTable.mark_broken(reason)", reason, str, "a sentence")
        with self._lock:
            if (config := _config_text(row)) not in self._broken:
                self._broken[config] = reason = " ".join(reason.split())[:300]
                self._report(f"the config for ({row.case}) of {self.kernel} is skipped, {row.where}: {reason}")
            self._forget()

    def rows(self, gpu: Gpu) -> list[Row]:
        """All usable rows that were measured on ``gpu``, those of the user's folder first."""
        _check_gpu("rows", gpu)
        with self._lock:
            return [row for file in self._loaded() if file.gpu == gpu.slug for row in self._usable(file.rows, file)]

    def fingerprint(self) -> str:
        """Sixteen hex digits over the table files in use, for keys of compile caches.

        Equal contents give equal digests in any process and under any path; an edit, once read, another.
        """
        digest = hashlib.sha256()
        for file in self._loaded():
            digest.update(f"{file.gpu} {len(file.content)} ".encode() + file.content)
        return digest.hexdigest()[:16]

    def reload(self) -> None:
        """Reads the files again at the next pick; picks made so far keep what they have."""
        with self._lock:
            self._files = None
            self._forget()

    def on_change(self, watcher: Callable[[], None]) -> None:
        """Calls ``watcher`` whenever picks may come out differently: on :meth:`reload`, :meth:`add`, :meth:`mark_broken`."""
        check_callable("ConfigTable.on_change(watcher)", watcher, "a function without arguments")
        self._watchers.append(watcher)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in order of preference; new rows go to the first."""
        return (user_folder(), shipped_folder()) if self._folders is None else self._folders

    def _index_rows(self, gpu: Gpu) -> list[tuple[str, CaseIndex]]:
        """An index for ``gpu``, then one for each GPU of its architecture, those of the likest name first."""
        with self._lock:
            rows: dict[str, list[Row]] = {}
            for file in self._loaded():
                fits = [row for row in file.rows if file.gpu == gpu.slug or _arch(row, file) == gpu.arch]
                rows.setdefault(file.gpu, []).extend(self._usable(fits, file))
            order = sorted(rows, key=lambda name: (name != gpu.slug, -name_similarity(name, gpu.slug), name))
            for name in order:  # a stable sort: the order of the folders decides among rows that say their version
                rows[name].sort(key=lambda row: not row.kernel)
            indices = [(name, CaseIndex(rows[name], self.bucketed, self.nearest)) for name in order]
            self._indices[gpu] = indices
            return indices

    def _usable(self, rows: list[Row], file: TableFile) -> list[Row]:
        """Those of this kernel version that are not broken, the faster of two for one case first."""
        ours = [row for row in rows if self._is_current(row)]
        if len(ours) < len(rows):
            alien = next(row for row in rows if not self._is_current(row))
            self._report(
                f"{file.path}: {len(rows) - len(ours)} of {len(rows)} rows were made by another version of "
                f"{self.kernel} (row {alien.index}: {truncate(alien.kernel)}, now: {', '.join(sorted(self._versions))}) "
                f"and are skipped; `python -m helion_compile tune {self.kernel}` makes new ones"
            )
        first: dict[tuple[Case, str | None], Row] = {}
        twins = [(twin, row) for row in ours if (twin := first.setdefault((row.case, row.kernel), row)) is not row]
        if twins:
            twin, row = twins[0]
            more = f" (and {len(twins) - 1} more like them)" if len(twins) > 1 else ""
            self._report(
                f"{file.path}: rows {twin.index} and {row.index} are both for ({row.case}){more}; the faster is used, "
                "or the first where none says its time"
            )
        if self._broken:
            ours = [row for row in ours if _config_text(row) not in self._broken]
        return sorted(ours, key=lambda row: float("inf") if row.us is None else row.us)

    def _is_current(self, row: Row) -> bool:
        return not self._versions or row.kernel is None or row.kernel in self._versions

    def _loaded(self) -> list[TableFile]:
        with self._lock:
            if self._files is None:
                self._files = list(table_files(self.folders, self.kernel))
                for file in self._files:
                    for problem in file.problems:
                        self._report(problem)
            return self._files

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            log.warning("%s", problem)

    def _forget(self) -> None:
        self._indices = {}
        self.pick.cache_clear()  # type: ignore[attr-defined]
        for watcher in self._watchers:
            watcher()


def _check_gpu(method: str, gpu: Gpu) -> None:
    check_type(f"the GPU of ConfigTable.{method}", gpu, Gpu, "a Gpu, such as Gpu.current() or Gpu('NVIDIA H200', (9, 0))")


def _arch(row: Row, file: TableFile) -> str | None:
    return row.arch or arch_of(file.gpu)


def _config_text(row: Row) -> str:
    try:
        return f"{row.case} {json.dumps(row.config, sort_keys=True)}"
    except RecursionError:
        return f"{row.case} in {row.where}"
