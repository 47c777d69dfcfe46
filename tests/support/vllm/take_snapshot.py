# SPDX-License-Identifier: Apache-2.0
"""Writes the schemas of a vLLM's operators to ``schemas/<version>.json``; that vLLM is neither imported nor installed.

    pip download --no-deps vllm==0.31.0
    python -m tests.support.vllm.take_snapshot vllm-0.31.0-*.whl

Schemas of the CUDA library stand as text in its file; those of operators made in Python follow from their signatures.
Operators are those of ``vllm_table``.  One that this vLLM lacks is not in the file.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from helion_compile.passes.patterns.custom_ops.vllm_table import OPERATORS

__all__ = ["SCHEMAS", "read_schemas"]

SCHEMAS = Path(__file__).parent / "schemas"
_REGISTRATIONS = ("direct_register_custom_op", "library.custom_op", "register_op")


def read_schemas(root: Path | zipfile.Path) -> dict[str, str]:
    """Operator -> schema, as far as the package ``vllm`` in this folder has them."""
    names = [name.removesuffix(".default") for name in OPERATORS]
    found = dict(_read_library(root / "vllm", [name for name in names if name.startswith("_C.")]))
    found |= _read_python(root / "vllm", [name for name in names if not name.startswith("_C.")])
    return {name: found[name] for name in names if name in found}


def _read_library(package: Path | zipfile.Path, names: list[str]) -> Iterator[tuple[str, str]]:
    (library,) = (path for path in package.iterdir() if re.match(r"_C(_stable_libtorch)?\.", path.name))
    content = library.read_bytes()
    for name in names:
        pattern = rb"\0(" + name.removeprefix("_C.").encode() + rb"\([^\0]*\) -> [^\0]*)\0"
        found = {_normalize(text.decode()) for text in re.findall(pattern, content)}
        if found:
            (schema,) = found
            yield name, schema


def _read_python(package: Path | zipfile.Path, names: list[str]) -> dict[str, str]:
    found = {}
    for path in _python_files(package):
        text = path.read_text(encoding="utf-8")
        if not any(word in text for word in _REGISTRATIONS):
            continue
        tree = ast.parse(text)
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for name, function, mutated in _registered(tree, functions):
            if name in names:
                found[name] = _normalize(f"{name.partition('.')[2]}{_infer(functions[function], mutated)}")
    return found


def _python_files(folder: Path | zipfile.Path) -> Iterator[Path | zipfile.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _python_files(path)
        elif path.name.endswith(".py"):
            yield path


def _registered(tree: ast.Module, functions: dict[str, ast.FunctionDef]) -> Iterator[tuple[str, str, list[str]]]:
    """Operator, function and the arguments that it writes to, for each registration in a file."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("direct_register_custom_op"):
            given = dict(zip(("op_name", "op_func", "mutates_args"), call.args, strict=False))
            given |= {keyword.arg: keyword.value for keyword in call.keywords}
            if isinstance(given["op_name"], ast.Constant) and isinstance(given["op_func"], ast.Name):
                mutated = ast.literal_eval(given["mutates_args"]) if "mutates_args" in given else []
                yield f"vllm.{given['op_name'].value}", given["op_func"].id, list(mutated)
    for function in functions.values():
        for decorator in function.decorator_list:
            called = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
            if called == "register_op":
                yield f"vllm_ir.{function.name}", function.name, []
            elif called.endswith("library.custom_op"):
                mutated = next((k.value for k in decorator.keywords if k.arg == "mutates_args"), ast.Constant(()))
                yield decorator.args[0].value.replace("::", "."), function.name, list(ast.literal_eval(mutated))


def _infer(function: ast.FunctionDef, mutated: list[str]) -> str:
    """The schema that torch makes of a signature; the function's body is never run."""
    bare = ast.FunctionDef("function", function.args, [ast.Pass()], [], function.returns, lineno=1)
    bare.args.posonlyargs, bare.args.args = [], bare.args.posonlyargs + bare.args.args
    scope = {"torch": torch, "Tensor": torch.Tensor, "__name__": __name__}
    exec(ast.unparse(ast.fix_missing_locations(ast.Module([bare], []))), scope)
    return torch.library.infer_schema(scope["function"], mutates_args=mutated)


def _normalize(schema: str) -> str:
    return re.sub(r"\s+", " ", schema).replace(" )", ")")


def _main(given: Path) -> None:
    root = zipfile.Path(given) if given.suffix == ".whl" else given
    (about,) = (path for path in root.iterdir() if re.fullmatch(r"vllm-[^/]+\.dist-info", path.name))
    version = about.name.removeprefix("vllm-").removesuffix(".dist-info").partition("+")[0]
    schemas = read_schemas(root)
    path = SCHEMAS / f"{version}.json"
    path.write_text(json.dumps(schemas, indent=2) + "\n")
    lacking = sorted({name.removesuffix(".default") for name in OPERATORS} - schemas.keys())
    print(f"{path}: {len(schemas)} operators; not in this vLLM: {', '.join(lacking) or 'none'}")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
