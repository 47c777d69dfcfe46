# SPDX-License-Identifier: Apache-2.0
"""Inductor: a ``helion_kernel`` node lowered to the Triton kernels that it launches, for generated code without Python.

    call_helion_norm_quant_0(arg0_1, arg1_1, buf1, buf2, …, s0, 1, 1, device, stream)

Inductor writes such kernels as it writes a user's own Triton kernels: compiled to a binary while the code is made, and
launched by C++.  Outputs are Inductor's buffers.  Sizes that are symbols stay symbols: the host function of a config runs on
fake tensors, and what it launches on are expressions of them.

A range of sizes may have several configs.  Each is launched with a grid that is empty outside of its part of the range, and
code skips a launch with an empty grid.  So the sizes of the call choose, and nothing runs twice.

Memory that has to be zero is filled once a call of the graph, as the kernels leave zeros (``zeroed_workspace.py``): all calls
of a graph share it.

Private interfaces (``compat``): ``ir.UserDefinedTritonKernel``, whose constructor is replaced.  Torch's finds out by itself
what a kernel writes to; inline assembly is nothing that it can read, and it would take every weight for written.
"""

from __future__ import annotations

import functools
import linecache
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch.fx import Node

from helion_compile.compat import (
    PyCodeCache,
    V,
    ir,
    kernel_side_table,
    lower_empty_strided,
    lower_full,
    sympy_functions,
    unset_fake_temporarily,
)
from helion_compile.configs.gpu import Gpu
from helion_compile.errors import PackageError
from helion_compile.graph.size_choice import Part, substitute
from helion_compile.passes.compat import detect_fake_mode, enable_python_dispatcher
from helion_compile.runtime.call_target import make_host_function
from helion_compile.runtime.record import NotReplayable
from helion_compile.runtime.symbolic_record import Pointer, SymbolicLaunch, SymbolicRecord, record_symbolically

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["lower_parts", "record_part"]


def record_part(kernel: KernelSpec, node: Node, switch: Any, part: Part) -> SymbolicRecord:
    """What the kernel's host function for the config of ``part`` does with the node's fake arguments.

    Raises:
        PackageError: it does more than launch.
    """
    fakes = [argument.meta["val"] if isinstance(argument, Node) else argument for argument in node.args]
    mode = detect_fake_mode(fakes)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # Helion makes equal code of both
    with unset_fake_temporarily():
        like = tuple(
            torch.empty_strided(
                [substitute(n, switch, part.size) for n in fake.shape],
                [substitute(n, switch, part.size) for n in fake.stride()],
                dtype=fake.dtype,
                device=device,
            )
            if isinstance(fake, torch.Tensor)
            else substitute(fake, switch, part.size)
            for fake in fakes
        )
        host = make_host_function(kernel, like, part.config)
    try:
        with torch.no_grad(), mode, enable_python_dispatcher():
            own = tuple(
                torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype, device=fake.device)
                if isinstance(fake, torch.Tensor)
                else fake
                for fake in fakes
            )
            return record_symbolically(host, own, kernel.zeroed_workspace)
    except NotReplayable as reason:
        raise PackageError(
            f"{kernel.short_name} cannot be launched without Python: {reason}. Write its host function so that it only "
            f"allocates and launches."
        ) from None


def lower_parts(
    records: Sequence[tuple[Part, SymbolicRecord]],
    switch: Any,
    args: Sequence[Any],
    outputs: Sequence[Any],
    written: Sequence[Any],
) -> None:
    """Launch what the records say, each in its part of the range.

    Args:
        args, outputs: Inductor's values, in the order of the kernel's arguments and results.
        written: those of them that the kernel writes to.
    """
    tensors = [arg for arg in args if isinstance(arg, ir.TensorBox)]
    zeroed = _allocate_zeros(records, switch)
    for part, record in records:
        inside = _inside(part, records, switch)
        scratch = [_allocate(fake) for fake in record.scratch]
        known = [*tensors, *outputs, *scratch, *zeroed[: len(record.zeroed)]]
        for launch in record.launches:
            _lower_launch(launch, inside, known, [*written, *scratch, *zeroed[: len(record.zeroed)]])


def _inside(part: Part, records: Sequence[tuple[Part, SymbolicRecord]], switch: Any) -> Any:
    """1 where ``switch`` is in the part, otherwise 0; the first and last part have no outer end."""
    inside = 1
    if part is not records[0][0]:
        inside = inside * _clip(switch - part.low + 1)
    if part is not records[-1][0]:
        inside = inside * _clip(part.high - switch + 1)
    return inside


def _clip(value: Any) -> Any:
    return sympy_functions.Max(0, sympy_functions.Min(1, value))


def _allocate(fake: torch.Tensor) -> ir.TensorBox:
    size, stride = ir.convert_shape_to_inductor(fake.size()), ir.convert_shape_to_inductor(fake.stride())
    box = lower_empty_strided(size, stride, dtype=fake.dtype, device=fake.device)
    box.realize()
    return box


def _allocate_zeros(records: Sequence[tuple[Part, SymbolicRecord]], switch: Any) -> list[ir.TensorBox]:
    """Memory that is zero, enough for each part: no larger than the largest sizes of those that need it."""
    boxes = []
    for index in range(max(len(record.zeroed) for _, record in records)):
        most: Any = 0
        dtype = device = None
        for part, record in records:
            if index < len(record.zeroed):
                fake = record.zeroed[index]
                (size,) = ir.convert_shape_to_inductor([fake.numel()])
                if switch is not None and part is not records[-1][0]:
                    size = size.subs(switch, sympy_functions.Min(switch, part.high)) if hasattr(size, "subs") else size
                most = size if most == 0 else sympy_functions.Max(most, size)
                dtype, device = fake.dtype, fake.device
        boxes.append(_find_zeros(index, most, dtype, device))
    return boxes


def _find_zeros(index: int, size: Any, dtype: Any, device: Any) -> ir.TensorBox:
    """Zeros of this graph that are enough, made where there are none."""
    graph = V.graph
    if not hasattr(graph, "helion_zeros"):
        graph.helion_zeros = []
    for known, box in graph.helion_zeros:
        if known[:3] == (index, dtype, device) and (known[3] == size or graph.sizevars.statically_known_leq(size, known[3])):
            return box
    box = lower_full([size], 0, dtype=dtype, device=device)
    box.realize()
    graph.helion_zeros.append(((index, dtype, device, size), box))
    return box


def _lower_launch(launch: SymbolicLaunch, inside: Any, known: Sequence[ir.TensorBox], written: Sequence[ir.TensorBox]) -> None:
    kernel = launch.kernel
    fixed = [
        name
        for name, value in zip(kernel.arg_names, launch.values, strict=True)
        if not isinstance(value, (Pointer, torch.SymInt)) and (type(value) is not int)
    ]
    kernel = _fix_parameters(kernel, tuple(fixed))
    options = {name: launch.options[name] for name in ("num_warps", "num_stages") if name in launch.options}
    values = {
        name: _pointer(value, known) if isinstance(value, Pointer) else _number(value)
        for name, value in zip(kernel.arg_names, launch.values, strict=True)
    }
    grid = [inside * _number(launch.grid[0]), *map(_number, launch.grid[1:])]
    TritonLaunch(_in_side_table(kernel, tuple(options.items())), grid, values, written)


def _number(value: Any) -> Any:
    (number,) = ir.convert_shape_to_inductor([value]) if isinstance(value, torch.SymInt) else (value,)
    return int(number) if getattr(number, "is_Integer", False) else number


def _pointer(pointer: Pointer, known: Sequence[ir.TensorBox]) -> ir.IRNode:
    box = known[pointer.index]
    whole = ir.InputsKernel.unwrap_storage_for_input(ir.ExternKernel.realize_input(box))
    if pointer.view is None:
        return whole
    data, before = whole, 0
    if isinstance(whole, ir.ReinterpretView):
        data, before = whole.data, whole.layout.offset
    elif not isinstance(data, ir.StorageBox):
        data = ir.StorageBox(data)
    (offset,) = ir.convert_shape_to_inductor([pointer.offset])
    scale = pointer.view.dtype.itemsize
    before = before * whole.get_dtype().itemsize // scale
    layout = ir.FixedLayout(
        whole.get_device(),
        pointer.view.dtype,
        ir.convert_shape_to_inductor(pointer.view.size()),
        ir.convert_shape_to_inductor(pointer.view.stride()),
        before + offset,
    )
    return ir.ReinterpretView(data=data, layout=layout)


@functools.cache
def _load_source(source: str) -> Any:
    return PyCodeCache.load(source)


def _fix_parameters(kernel: Any, names: tuple[str, ...]) -> Any:
    """The kernel with these parameters as constants of the compiler; one object for all that Helion generated alike.

    Inductor would hand a float to the kernel as fp64, and the kernel's arithmetic with it would be fp64.  It also compiles a
    kernel again for each object.
    """
    plain = [name for name, parameter in zip(kernel.arg_names, kernel.params, strict=True) if not parameter.is_constexpr]
    names = tuple(name for name in names if name in plain)
    lines = linecache.getlines(kernel.fn.__code__.co_filename)
    source = "".join(lines[1:] if lines and lines[0].startswith("# {") else lines)  # without what the codegen cache notes
    head = re.search(rf"^def {re.escape(kernel.__name__)}\((.*)\):$", source, re.MULTILINE)
    if head is None:
        if not names:
            return kernel
        raise PackageError(
            f"{kernel.__name__} cannot be launched without Python: its source was not found as Helion writes it."
        )
    parameters = [f"{each}: tl.constexpr" if each in names else each for each in head[1].split(", ")]
    source = f"{source[: head.start(1)]}{', '.join(parameters)}{source[head.end(1) :]}"
    return getattr(_load_source(_CAPABILITY.sub(_answer_capability, source)), kernel.__name__)


_CAPABILITY = re.compile(r"\btl\.target_info\.cuda_capability_geq\((\d+), (\d+)\)")


def _answer_capability(asked: re.Match[str]) -> str:
    """Whether the GPU that code is made for is at least that.

    To ask it, Triton looks for the current device, which Inductor's compile workers cannot have: they are forks.
    """
    return str(Gpu.current().capability >= (int(asked[1]), int(asked[2])))


_indices: dict[tuple[int, Any], tuple[Any, int]] = {}


def _in_side_table(kernel: Any, options: tuple[tuple[str, Any], ...]) -> int:
    """Where Inductor finds the kernel with these options; one entry for all calls, so that it is compiled once."""
    key = id(kernel), options
    if key not in _indices or _indices[key][0].fn is not kernel:
        tuned = triton.autotune(configs=[triton.Config({}, **dict(options))], key=[])(kernel)
        _indices[key] = tuned, kernel_side_table.add_kernel(tuned)
    tuned, index = _indices[key]
    if kernel_side_table.id_to_kernel.get(index) is not tuned:  # it was reset
        index = kernel_side_table.add_kernel(tuned)
        _indices[key] = tuned, index
    return index


class TritonLaunch(ir.UserDefinedTritonKernel):
    """One launch, which writes to ``written``."""

    def __init__(self, kernel_idx: int, grid: list[Any], values: Mapping[str, Any], written: Sequence[ir.TensorBox]) -> None:
        tensors = [value for value in values.values() if isinstance(value, ir.IRNode)]
        constants = tuple(value for value in values.values() if not isinstance(value, ir.IRNode))
        self.device = tensors[0].get_device()
        ir.ExternKernel.__init__(self, None, ir.NoneLayout(device=self.device), tensors, constants, dict(values))
        self.kernel_idx = kernel_idx
        self.grid = [grid]
        self.ordered_kwargs_for_cpp_kernel = list(values)
        self.kernel_args = dict(values)
        self.mutable_args = list(written)
        self.mutation_outputs = [ir.MutationOutput(ir.NoneLayout(device=self.device), box, self) for box in written]
        V.graph.register_operation(self)

    def can_fuse_epilogue(self) -> bool:
        return False
