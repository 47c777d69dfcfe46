# SPDX-License-Identifier: Apache-2.0
"""vLLM's own config pickers, taken out of a vllm wheel or an installed vllm for a side-by-side measurement.

Importing ``vllm`` would start its platform plug-ins and need its compiled extensions. A picker needs neither: it is one
function, one dict and the ``CaseKey`` class, so just these are compiled from vLLM's sources. Tested with vLLM 0.31.0.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["MissingPicker", "VllmPickers"]


class MissingPicker(LookupError):
    """There is no vLLM, or not the picker that was asked for; one sentence says what to do."""


class VllmPickers:
    """Pickers of one vLLM.

    Args:
        path: a wheel, or a folder that holds ``vllm/``; by default the vllm that is installed.

    Raises:
        MissingPicker: no vLLM is there, or one without ``CaseKey``.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._root = _installed() if path is None else path
        found = self._compile("case_key.py", lambda node: True)
        if "CaseKey" not in found:
            raise MissingPicker(f"{self._root} has vllm/kernels/helion/case_key.py but no CaseKey in it: use vLLM 0.31")
        self.case_key: type = found["CaseKey"]

    def load(self, op: str) -> Callable[[tuple[Any, ...], list[Any]], Any]:
        """The ``(args, config_keys) -> CaseKey | None`` of ``vllm/kernels/helion/ops/<op>.py``, its cache empty."""
        found = self._compile(f"ops/{op}.py", _belongs_to_picker, CaseKey=self.case_key)
        pickers = [value for name, value in found.items() if _is_picker_name(name)]
        if not pickers:
            raise MissingPicker(f"{self._root} has vllm/kernels/helion/ops/{op}.py but no picker in it: use vLLM 0.31")
        return pickers[0]

    def _compile(self, file: str, wanted: Callable[[ast.stmt], bool], **names: Any) -> dict[str, Any]:
        source = self._read(f"vllm/kernels/helion/{file}")
        tree = ast.parse(source, file)
        tree.body = [node for node in tree.body if wanted(node)]
        # Annotations may name classes of modules that are not loaded here.
        code = compile(tree, file, "exec", flags=__future__.annotations.compiler_flag)
        names["__name__"] = f"vllm.{Path(file).stem}"
        exec(code, names)
        return names

    def _read(self, name: str) -> str:
        try:
            if self._root.is_dir():
                return (self._root / name).read_text()
            with zipfile.ZipFile(self._root) as wheel:
                return wheel.read(name).decode()
        except (OSError, KeyError, zipfile.BadZipFile):
            raise MissingPicker(
                f"{self._root} has no {name}: --vllm takes a wheel of vLLM (pip download --no-deps vllm==0.31.0) or a "
                "folder with vllm/ in it"
            ) from None


def _installed() -> Path:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPicker("vllm is not installed: pip download --no-deps vllm==0.31.0, then give the wheel with --vllm")
    return Path(next(iter(spec.submodule_search_locations))).parent


def _is_picker_name(name: str) -> bool:
    return name.startswith("pick_") and name.endswith("config")


def _belongs_to_picker(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return _is_picker_name(node.name)
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "_pick_cache"
