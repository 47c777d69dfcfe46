# SPDX-License-Identifier: Apache-2.0
"""Inductor: a ``helion_kernel`` node becomes one call in the generated wrapper, on buffers that Inductor allocates.

    buf1 = empty_strided_cuda((16, 4096), (4096, 1), torch.float8_e4m3fn)
    buf2 = empty_strided_cuda((16, 1), (1, 1), torch.float32)
    helion_norm_quant_op2.call(arg0_1, arg1_1, buf1, buf2)

and above it, once, what is fixed at compile time:

    helion_norm_quant_op2 = helion_compile.runtime.call_site.CallSite(
        "helion_compile::norm_quant@1f3a5c77", 2, 2, lambda tensor0, tensor1: (tensor0, tensor1, None, 1e-06, …), "layers.0…")

The outputs are ordinary buffers that the call writes to, so Inductor's memory planning reuses their memory and nothing is
copied around the call.  Symbolic sizes are passed along: a graph compiled for a range of sizes still picks a config for each.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx

from helion_compile.compat import (
    HigherOrderOperator,
    OpOverload,
    OrderedSet,
    V,
    ir,
    lower_clone,
    lower_empty_strided,
    register_lowering,
)
from helion_compile.definitions import registry
from helion_compile.graph.reference_lowering import lower_function
from helion_compile.graph.without_python import choose_function, lower_launches
from helion_compile.passes.ir.source_location import Location
from helion_compile.runtime import profiler_ranges

__all__ = ["register_op"]


@functools.cache
def register_op(helion_kernel: HigherOrderOperator) -> None:
    """Give Inductor the lowering of the op; called when the first node is made."""
    register_lowering(helion_kernel, type_promotion_kind=None)(_lower)


def _strided(box: ir.TensorBox, fake: torch.Tensor) -> ir.TensorBox:
    return ir.ExternKernel.require_exact_strides(box, fake.stride())


def _lower(*args: Any, kernel: str) -> Any:
    node = V.graph.current_node
    value = node.meta["val"]
    fakes = value if isinstance(value, (tuple, list)) else () if value is None else (value,)
    known = registry.find_kernel(kernel)
    if V.graph.cpp_wrapper and (function := choose_function(known, node)):
        results: Any = lower_function(node, known, args, function)
        return results if isinstance(value, (tuple, list)) else results[0] if results else None
    mutated = [i for i in known.mutated_positions if args[i] is not None]
    outputs = [_allocate(fake) for fake in fakes[: len(fakes) - len(mutated)]]
    # The strides that `check_supported` saw.  Inductor's own table of layout constraints is for OpOverloads only.
    traced = zip(args, node.args, strict=True)
    passed = [_strided(arg, fx.meta["val"]) if isinstance(arg, ir.TensorBox) else arg for arg, fx in traced]
    for index, position in enumerate(mutated, start=len(outputs)):
        if not _may_write_in_place(node, node.args[position], index):
            passed[position] = _strided(lower_clone(passed[position]), fakes[index])
        passed[position].realize()
    results = [*outputs, *(passed[position] for position in mutated)]
    if V.graph.cpp_wrapper:
        for output in outputs:
            output.realize()
        lower_launches(known, node, passed, outputs, results)
    else:
        HelionCall(kernel, passed, outputs, results)
    return tuple(results) if isinstance(value, (tuple, list)) else results[0] if results else None


def _allocate(fake: torch.Tensor) -> ir.TensorBox:
    size, stride = ir.convert_shape_to_inductor(fake.size()), ir.convert_shape_to_inductor(fake.stride())
    return lower_empty_strided(size, stride, dtype=fake.dtype, device=fake.device)


def _may_write_in_place(node: torch.fx.Node, target: torch.fx.Node, index: int) -> bool:
    """Whether nobody sees the old value of ``target`` once ``node`` ran.

    That is so if everything else that reads it comes before, and what comes after is only the ``copy_`` of result ``index``
    back into it.  Views are left to the copy: they would need to be followed.  So is a tensor passed twice, since the kernel
    would read what it is writing.
    """
    if sum(arg is target for arg in node.args) > 1:
        return False
    if target.op == "placeholder":
        new = [user for user in node.users if user.target is operator.getitem and user.args[1] == index]
        copies = [user for user in target.users if user.target is torch.ops.aten.copy_.default and user.args[0] is target]
        if len(new) != 1 or len(copies) != 1 or copies[0].args[1] is not new[0]:
            return False
    elif target.op != "call_function" or _is_view(target, node.target):
        return False
    else:
        copies = []
    before = OrderedSet[torch.fx.Node]()
    for other in node.graph.nodes:
        if other is node:
            break
        before.add(other)
    return all(
        user in before and not _is_view(user, node.target) for user in target.users if user is not node and user not in copies
    )


def _is_view(node: torch.fx.Node, helion_kernel: Any) -> bool:
    """Whether the node's result may share memory with its argument; unknown targets count as if it did."""
    if node.target is operator.getitem:
        whole, index = node.args
        return whole.target is not helion_kernel or sum(user.args[1] == index for user in whole.users) > 1
    if node.target is helion_kernel:
        return False
    if not isinstance(node.target, OpOverload):
        return node.op == "call_function"
    return node.target is torch.ops.aten.reshape.default or any(r.alias_info for r in node.target._schema.returns)


class HelionCall(ir.ExternKernel):
    """The call of one kernel, which fills ``outputs``; ``written`` are these and the arguments that it writes to."""

    def __init__(
        self, key: str, args: Sequence[Any], outputs: Sequence[ir.TensorBox], written: Sequence[ir.TensorBox]
    ) -> None:
        self.kernel = registry.find_kernel(key)
        self.key = self.kernel.key  # generated code is kept, and must never run with another version
        self.place = str(Location.of(V.graph.current_node))
        self.args = [self._realized(arg) if isinstance(arg, ir.TensorBox) else arg for arg in args]
        self.outputs = [self._realized(output) for output in outputs]
        tensors = [slot for slot in (*self.args, *self.outputs) if isinstance(slot, ir.IRNode)]
        self.device = tensors[0].get_device()
        constants = tuple(arg for arg in self.args if not isinstance(arg, ir.IRNode))
        super().__init__(None, ir.NoneLayout(device=self.device), tensors, constants)
        self.mutation_outputs = [ir.MutationOutput(ir.NoneLayout(device=self.device), box, self) for box in written]
        V.graph.register_operation(self)

    def _realized(self, box: ir.TensorBox) -> ir.IRNode:
        return ir.InputsKernel.unwrap_storage_for_input(self.realize_input(box))

    def codegen(self, wrapper: Any) -> None:
        passed: list[str] = []
        arguments: list[str] = []
        for arg in self.args:
            if isinstance(arg, ir.IRNode):
                name = f"tensor{len(passed)}"
                tensor, view = _without_view(arg, name)
                passed.append(tensor)
                arguments.append(view)
            else:
                arguments.append(wrapper.val_to_arg_str(arg))
        if not getattr(wrapper, "helion_looks", False):  # once a function of the generated code
            wrapper.helion_looks = True
            wrapper.add_import_once(profiler_ranges.LOOK[0])
            wrapper.writeline(profiler_ranges.LOOK[1])
        names = [f"tensor{index}" for index in range(len(passed))]
        symbols = list(map(str, self._symbols()))
        function = f"helion_{self.kernel.bare_name}_{self.get_operation_name()}"
        wrapper.add_import_once("import helion_compile.runtime.call_site")
        wrapper.add_import_once(
            f"{function} = helion_compile.runtime.call_site.CallSite({self.key!r}, {len(passed)}, {len(self.outputs)}, "
            f"lambda {', '.join([*names, *symbols])}: ({', '.join(arguments)},), {self.place!r})"
        )
        passed += [output.codegen_reference() for output in self.outputs]
        wrapper.writeline(f"{function}.call({', '.join([*passed, *symbols])})")

    def _symbols(self) -> list[Any]:
        """The symbols that, with what the graph fixes, decide every size, stride and number of this call."""
        symbols = OrderedSet[Any]()
        for slot in (*self.args, *self.outputs):
            for value in (*slot.get_size(), *slot.get_stride()) if isinstance(slot, ir.IRNode) else (slot,):
                symbols |= getattr(value, "free_symbols", ())
        return sorted(symbols, key=str)

    def get_outputs(self) -> list[ir.Buffer]:
        return list(self.mutation_outputs)

    def get_device(self) -> torch.device | None:
        return self.device

    def should_allocate(self) -> bool:
        return False


def _without_view(tensor: ir.IRNode, name: str) -> tuple[str, str]:
    """What to pass for ``tensor``, and the view to take of it where it is called ``name``.

    A launch needs an address only: for a view that begins where its buffer does the buffer will do, and making a tensor of
    the view, a microsecond each time, is left to the one call that records the launch.
    """
    view = tensor.codegen_reference()
    if isinstance(tensor, ir.ReinterpretView) and tensor.layout.offset == 0:
        buffer = tensor.get_name()
        if view.startswith(f"reinterpret_tensor({buffer}, ") and V.graph.get_dtype(buffer) == tensor.get_dtype():
            return buffer, view.replace(buffer, name, 1)
    return view, name
