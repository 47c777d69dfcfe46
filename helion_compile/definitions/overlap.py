# SPDX-License-Identifier: Apache-2.0
"""Arguments that share memory where a kernel writes: which comes first, a write or the other's, nothing decides.

Eager calls would do both in some order, and compiled graphs, which copy new values back one by one, would lose one.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.fx.experimental.symbolic_shapes import guard_or_false

from helion_compile.errors import KernelArgumentError

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["Layout", "MeetingRange", "check_written_apart", "find_shared_byte", "list_meeting_ranges"]

_MOST_STEPS = 10_000  # of one search, some 10 ms; layouts that views and slices make take fewer than 100


class Layout(NamedTuple):
    """Where the bytes of a tensor lie, seen from its first."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    itemsize: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.element_size())

    @property
    def span(self) -> int:
        """Bytes from the first element's beginning to the last one's end."""
        if any(guard_or_false(size == 0) for size in self.shape):
            return 0
        last = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.itemsize


class MeetingRange(NamedTuple):
    """Two tensors of a call that must lie apart.

    From ``one`` to ``other`` are not more than ``before`` bytes back and not ``after`` bytes on, or they lie apart.
    """

    one: int
    other: int
    before: int
    after: int


def list_meeting_ranges(kernel: KernelSpec, args: tuple[Any, ...]) -> tuple[MeetingRange, ...]:
    """What a launch has to compare by addresses, by the tensors' places among the tensor arguments."""
    tensors = [(index, arg) for index, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
    return tuple(
        MeetingRange(place, other_place, -Layout.of(other).span, Layout.of(one).span)
        for (place, (index, one)), (other_place, (other_index, other)) in itertools.combinations(enumerate(tensors), 2)
        if index in kernel.mutated_positions or other_index in kernel.mutated_positions
    )


def check_written_apart(kernel: KernelSpec, args: tuple[Any, ...], traced: bool = False) -> None:
    """Refuse arguments that overlap where the kernel writes to one of them.

    Two written arguments must lie apart.  A written one and one that is only read may be the same tensor, but must not
    overlap in part.  The elements of a written one must lie apart, too.

    Args:
        traced: these are fake tensors, and what shares memory is known by their storages, not by addresses.

    Raises:
        KernelArgumentError: they overlap, or whether they do could not be told.
    """
    names = tuple(kernel.signature.parameters)
    tensors = [index for index, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
    for index in kernel.mutated_positions:
        if isinstance(args[index], torch.Tensor) and _repeats_memory(args[index]):
            raise KernelArgumentError(
                f"{kernel.short_name}: elements of argument {names[index]!r} share memory with one another, as .expand() "
                f"makes them, and the kernel writes to it. Pass its .contiguous()."
            )
    for one, other in itertools.combinations(tensors, 2):
        written = [index for index in (one, other) if index in kernel.mutated_positions]
        if not written or (len(written) == 1 and _is_same(args[one], args[other], traced)):
            continue
        shared = _share_memory(args[one], args[other], traced)
        if shared is not False:
            raise KernelArgumentError(
                f"{kernel.short_name}: arguments {names[one]!r} and {names[other]!r} "
                f"{'share memory' if shared else 'may share memory, which could not be told'}, and the kernel writes to "
                f"{' and '.join(repr(names[index]) for index in written)}: one write would be lost, or be read half done. "
                f"Pass tensors that lie apart, such as a .clone() of one."
            )


def find_shared_byte(one: Layout, other: Layout, distance: int) -> bool | None:
    """Whether a byte of ``one`` is one of ``other``, which begins ``distance`` bytes after it; None where it takes too long.

    Exact, also for interleaved views: one byte is an integer solution of ``Σ stride * index = distance``.
    """
    if not one.span or not other.span or one.span <= distance or other.span <= -distance:
        return False
    target = distance + other.span - 1  # with the indices of `other` counted from its end, no term is negative
    return _has_solutions(1, target, [*_terms(one), *_terms(other)])


def _terms(layout: Layout) -> list[tuple[int, int]]:
    """Bytes a step and the largest number of steps, for each dimension and within an element."""
    pairs = zip(layout.shape, layout.stride, strict=True)
    return [(1, layout.itemsize - 1), *((step * layout.itemsize, size - 1) for size, step in pairs)]


@functools.lru_cache(1024)
def _repeats(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    terms = [(step, size - 1) for size, step in zip(shape, stride, strict=True) if size > 1]
    steps = [step for step, _ in terms]
    if 0 in steps or len(set(steps)) < len(steps):
        return 0 not in shape
    # Two equal elements: the steps between them in each dimension, counted from the most negative, and one way is no step.
    doubled = [(step, 2 * most) for step, most in terms]
    return 0 not in shape and _has_solutions(2, sum(step * most for step, most in terms), doubled) is not False


def _has_solutions(enough: int, target: int, terms: list[tuple[int, int]]) -> bool | None:
    """Whether ``Σ step * count = target`` has that many solutions with counts from 0 to each term's most.

    The largest steps are tried first, and only counts which the smaller ones can complete: one or two of each, unless
    dimensions overlap.
    """
    counts: dict[int, int] = {}
    for step, most in terms:
        if step and most:
            counts[step] = counts.get(step, 0) + most
    ordered: list[tuple[int, int]] = []
    for step, most in sorted(counts.items()):
        small, several = ordered[-1] if ordered else (step, 0)
        if enough == 1 and step % small == 0 and several + 1 >= step // small:  # together all multiples of the smaller step
            ordered[-1:] = [(small, several + step // small * most)]
        else:
            ordered.append((step, most))
    ordered.reverse()
    rest = [0]
    for step, most in reversed(ordered):
        rest.append(rest[-1] + step * most)
    rest.reverse()
    found = steps = 0
    left = [(0, target)]
    while left:
        place, target = left.pop()
        if place == len(ordered):
            found += target == 0
            if found == enough:
                return True
            continue
        step, most = ordered[place]
        first, last = max(0, -((rest[place + 1] - target) // step)), min(most, target // step)
        steps += 1 + max(0, last - first)
        if steps > _MOST_STEPS:
            return None
        left += [(place + 1, target - count * step) for count in range(first, last + 1)]
    return False


_find_shared_byte = functools.lru_cache(1024)(find_shared_byte)


def _is_same(one: torch.Tensor, other: torch.Tensor, traced: bool) -> bool:
    """Whether both are one tensor, element by element; where that is not known, they are not."""
    if one is other:
        return True
    if one.dim() != other.dim() or one.dtype != other.dtype:
        return False
    (memory, first), (other_memory, other_first) = _place(one, traced), _place(other, traced)
    pairs = zip((first, *one.shape, *one.stride()), (other_first, *other.shape, *other.stride()), strict=True)
    return memory == other_memory and all(guard_or_false(a == b) for a, b in pairs)


def _place(tensor: torch.Tensor, traced: bool) -> tuple[Any, Any]:
    """The memory, and the first byte in it."""
    if traced or tensor.is_meta:
        return tensor.untyped_storage()._cdata, tensor.storage_offset() * tensor.element_size()
    return tensor.device, tensor.data_ptr()


def _share_memory(one: torch.Tensor, other: torch.Tensor, traced: bool) -> bool | None:
    (memory, first), (other_memory, other_first) = _place(one, traced), _place(other, traced)
    if memory != other_memory:
        return False
    layouts = Layout.of(one), Layout.of(other)
    distance = other_first - first
    numbers = [distance, *(number for layout in layouts for part in layout[:2] for number in part)]
    if any(isinstance(number, torch.SymInt) for number in numbers):
        # For all sizes that the answer holds for; of interleaved views for these sizes alone.
        if guard_or_false(layouts[0].span <= distance) or guard_or_false(layouts[1].span <= -distance):
            return False
        try:
            distance = int(distance)
            layouts = _make_ints(layouts[0]), _make_ints(layouts[1])
        except Exception:  # a size that only the values decide
            return None
    return _find_shared_byte(*layouts, distance)


def _make_ints(layout: Layout) -> Layout:
    return Layout(tuple(map(int, layout.shape)), tuple(map(int, layout.stride)), layout.itemsize)


def _repeats_memory(tensor: torch.Tensor) -> bool:
    shape, stride = tuple(tensor.shape), tensor.stride()
    if any(isinstance(number, torch.SymInt) for number in (*shape, *stride)):
        # Of a size that changes, what .expand() makes.
        return any(
            guard_or_false(step == 0) and not guard_or_false(size <= 1) for size, step in zip(shape, stride, strict=True)
        )
    return _repeats(shape, stride)
