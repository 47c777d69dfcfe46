# SPDX-License-Identifier: Apache-2.0
"""``debug``: everything that compilation made, as files to read, run and step through.

Beside what depyf writes (Dynamo's bytecode decompiled, Inductor's code), each graph that ``backend="helion"`` compiles gets a
folder: the graph before and after our pass as Python that runs, the inputs of the call for which it was compiled, the report
and the configs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from helion_compile.definitions import registry
from helion_compile.errors import check_path
from helion_compile.frontend.capture import inspect_graph
from helion_compile.reports.data import to_data
from helion_compile.reports.report import Report

__all__ = ["debug", "dump_graph"]

log = logging.getLogger("helion_compile")

_CALL = re.compile(r"torch\.ops\.higher_order\.helion_kernel\((?P<args>.*), kernel='(?P<name>[\w.:]+)(?:@\w+)?'\)")
_folder: Path | None = None  # of the `with debug(…)` block under way
_graphs = 0  # that were dumped in it


@contextlib.contextmanager
def debug(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Within it, whatever is compiled leaves its inside in ``folder``::

        with helion_compile.debug("inside"):
            model(input_ids)                         # compiled in here, for the first time or after torch.compiler.reset()

        inside/graph_1/after.py                      # python inside/graph_1/after.py  runs it and compares the results

    Each graph is run once more, node by node, to record what it is given and returns; the weights of the model are among
    that and are written too.

    Raises:
        TypeError: ``folder`` is no path.
        RuntimeError: inside of another ``debug``.
        OSError: ``folder`` cannot be made, or is a file.
    """
    global _folder, _graphs
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"debug() takes the folder to write to, such as 'inside'; got {folder!r}, a {type(folder).__name__}.")
    check_path("debug(folder)", folder, (str, os.PathLike), "the folder to write to, such as 'inside'")
    if _folder is not None:
        raise RuntimeError(f"debug({os.fspath(folder)!r}) was called inside of debug({str(_folder)!r}); leave that first.")
    try:
        import depyf
    except ImportError as error:
        raise ImportError(
            f"debug() has depyf write what Dynamo and Inductor made, which cannot be imported ({error}): "
            f"pip install 'helion-compile[debug]'"
        ) from None

    path = Path(folder).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(error.errno, f"debug() cannot make the folder {path}, name another: {error.strerror}") from None
    writer = depyf.prepare_debug(str(path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="[\\s\\S]*You are trying to debug `torch.compile`")
        writer.__enter__()
    _folder, _graphs = path, 0
    try:
        yield path
    finally:
        _folder = None
        try:
            writer.__exit__(None, None, None)
        except Exception as error:  # depyf reads bytecode of a Python that it may not know
            log.warning("depyf could not write all of what Dynamo made to %s: %s: %s", path, type(error).__name__, error)
        if not _graphs:
            log.warning(
                "debug(%r): no graph was compiled with backend='helion' inside; what was compiled before stays as it is, "
                "torch.compiler.reset() before the block makes it compile again",
                os.fspath(folder),
            )


def dump_graph(module: GraphModule, inputs: Sequence[Any], mode: str | None, options: Mapping[str, Any] | None) -> None:
    """Write what a graph that Dynamo has just made becomes, if a ``debug`` block is under way."""
    global _graphs
    if _folder is None:
        return
    for inspected in inspect_graph(module, inputs, mode, options, record_inputs=True):
        if inspected.inputs is None:  # a graph that another one calls, whose module holds it
            continue
        _graphs += 1
        folder = _folder / f"graph_{_graphs}"
        folder.mkdir(exist_ok=True)
        report = Report((inspected.report,))
        attributes = _attributes(inspected.module)
        bodies = {name: each for name, each in attributes.items() if isinstance(each, torch.nn.Module)}
        constants = {name: each for name, each in attributes.items() if name not in bodies}
        recorded = {"self": constants, "inputs": inspected.inputs, "outputs": inspected.outputs}
        torch.save(recorded, folder / "inputs.pt")
        if bodies:
            torch.save(bodies, folder / "bodies.pt")
        title = f"Graph {_graphs}, compilation {inspected.report.name or 'unknown'}"
        for name, code in (("before", inspected.report.before), ("after", inspected.report.after)):
            (folder / f"{name}.py").write_text(make_program(title, name, code), encoding="utf-8")
        (folder / "report.txt").write_text(f"{report}\n", encoding="utf-8")
        (folder / "report.json").write_text(report.to_json(indent=1), encoding="utf-8")
        report.to_html(folder / "report.html")
        sites = to_data(report)["graphs"][0]["sites"]
        configs = [{"node": site["node"], "kernel": site["kernel"], **site["config"]} for site in sites]
        (folder / "configs.json").write_text(json.dumps(configs, indent=1), encoding="utf-8")


def make_program(title: str, side: str, code: str) -> str:
    """The code of a graph as a file that can be imported, called and run."""
    imports = {"import helion_compile"}

    def call(found: re.Match[str]) -> str:
        module = registry.get_kernel(found["name"]).fn.__module__
        if module != "__main__":
            imports.add(f"import {module}")
        return f'helion_compile.call("{found["name"]}", {found["args"]})'

    code = _CALL.sub(call, code)
    lines = "\n".join(sorted(imports))
    return f'''"""{title}, {side} the pass.  Written by helion_compile.debug().

forward(self, *inputs) is the graph; run() calls it with what it was given when it was compiled.
"""

import operator
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.fx._pytree as fx_pytree
from torch import device
from torch.utils import _pytree as pytree

{lines}

NoneType = type(None)


{code}


def recorded():
    """self, inputs and outputs of the call that was recorded."""
    found = torch.load(Path(__file__).with_name("inputs.pt"), weights_only=True)
    owner = SimpleNamespace(**found["self"])
    bodies = Path(__file__).with_name("bodies.pt")  # the graphs inside of this one: code, as this file is
    if bodies.exists():
        owner.__dict__.update(torch.load(bodies, weights_only=False))
    return owner, found["inputs"], found["outputs"]


def run():
    owner, inputs, _ = recorded()
    with torch.no_grad():
        return forward(owner, *inputs)


if __name__ == "__main__":
    for index, (found, expected) in enumerate(zip(run(), recorded()[2], strict=True)):
        if isinstance(found, torch.Tensor):
            error = (found.double() - expected.double()).abs().max().item() if found.numel() else 0.0
            print(f"result {{index}}: {{found.dtype}} {{list(found.shape)}}, off the recorded one by up to {{error:.3g}}")
'''


def _attributes(module: GraphModule) -> dict[str, Any]:
    """What the graph's code reads from ``self``: constants, and modules for the bodies of higher-order operations."""
    names = {node.target.partition(".")[0] for node in module.graph.nodes if node.op in ("get_attr", "call_module")}
    return {name: getattr(module, name) for name in sorted(names)}
