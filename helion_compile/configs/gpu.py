# SPDX-License-Identifier: Apache-2.0
"""Which GPU a config was measured on, and which others it also suits."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

from helion_compile.errors import check_type, truncate

__all__ = ["Gpu", "arch_of", "assume_gpu", "has_kernels", "name_similarity", "slug"]

# Tables that do not say their architecture (files of other projects) are placed by the first of these words in their
# name. Ours say it in every row, so a GPU missing here loses nothing but such foreign tables.
_WORDS_OF_ARCH = {
    "sm_70": "v100",
    "sm_75": "t4",
    "sm_80": "a100 a800",
    "sm_86": "a10 a40 a6000",
    "sm_89": "l4 l40 l40s 4090",
    "sm_90": "h20 h100 h200 h800 gh200",
    "sm_100": "b200 gb200",
    "sm_103": "b300 gb300",
    "sm_120": "5090",
    "sm_121": "gb10",
}
_ARCH_OF_WORD = {word: arch for arch, words in _WORDS_OF_ARCH.items() for word in words.split()}


_assumed: ContextVar[Gpu | None] = ContextVar("assumed GPU", default=None)


class _Fields(NamedTuple):
    name: str
    capability: tuple[int, int]
    vendor: str


class Gpu(_Fields):
    """A kind of GPU: its marketing name, its compute capability (major, minor) and who makes it.

    A named tuple because it is half of the key of every pick, and a tuple is hashed in C.

    Raises:
        TypeError, ValueError: a name without letters and digits, or a capability that is no pair of numbers.
    """

    __slots__ = ()

    def __new__(cls, name: str, capability: tuple[int, int] = None, vendor: str = "nvidia") -> Gpu:  # type: ignore[assignment]
        slug(name)
        numbers = capability if isinstance(capability, tuple) else ()
        if len(numbers) != 2 or not all(type(number) is int and number >= 0 for number in numbers):
            raise TypeError(f"Gpu(capability=…) is {truncate(capability)}; give (major, minor), such as (9, 0) for an H200.")
        check_type("Gpu(vendor=…)", vendor, str, "'nvidia' or 'amd'")
        return super().__new__(cls, name, capability, vendor)

    @classmethod
    def current(cls, device_index: int | None = None) -> Gpu:
        """The GPU that torch sees under ``device_index``, or torch's current one; within :func:`assume_gpu` the assumed one.

        Raises:
            RuntimeError: torch finds no GPU.
        """
        import torch

        check_type("Gpu.current(device_index=…)", device_index, (int, type(None)), "the number of a device, or nothing")
        if (assumed := _assumed.get()) is not None:
            return assumed
        if not torch.cuda.is_available():
            raise RuntimeError(
                'a table was asked for the current GPU and torch finds none: name one, as in Gpu("NVIDIA H200", (9, 0))'
            )
        return cls(
            torch.cuda.get_device_name(device_index),
            torch.cuda.get_device_capability(device_index),
            "amd" if torch.version.hip else "nvidia",
        )

    @classmethod
    def named(cls, name: str) -> Gpu:
        """The GPU that people call ``name``: ``"h200"``, ``"NVIDIA H200"``.

        Raises:
            ValueError: nothing here is called so.
        """
        check_type("Gpu.named(name)", name, str, "a name, such as 'h200'")
        words = [word for word in slug(name).split("_") if word in _ARCH_OF_WORD]
        if not words:
            raise ValueError(f"no GPU is called {name!r}; known are {', '.join(sorted(_ARCH_OF_WORD))}")
        number = _ARCH_OF_WORD[words[0]].removeprefix("sm_")
        full = name if slug(name).startswith("nvidia") else f"NVIDIA {name.upper()}"
        return cls(full, (int(number[:-1]), int(number[-1])))

    @property
    def arch(self) -> str:
        """What decides whether a config compiles and fits: ``"sm_90"`` for the H100, the H200, the GH200."""
        major, minor = self.capability
        return f"sm_{major}{minor}" if self.vendor == "nvidia" else f"{self.vendor}_{major}{minor}"

    @property
    def slug(self) -> str:
        """The name as a file name without its ending: ``"nvidia_h200"``."""
        return slug(self.name)


@contextlib.contextmanager
def assume_gpu(gpu: Gpu | None) -> Iterator[None]:
    """Within it, choices and configs on a machine without that GPU are the ones of ``gpu``; None assumes nothing."""
    token = _assumed.set(gpu)
    try:
        yield
    finally:
        _assumed.reset(token)


def has_kernels(device_type: str) -> bool:
    """Whether calls on such a device run kernels that tables have times of, or are to be judged as if they did."""
    return device_type == "cuda" or _assumed.get() is not None


def slug(name: str) -> str:
    """``name`` in small letters, digits and underscores alone; whatever it holds, it cannot leave its folder.

    Raises:
        ValueError: nothing is left, or more than 100 characters.
    """
    text = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") if isinstance(name, str) else ""
    if not text or len(text) > 100:
        raise ValueError(f"a GPU is called something like 'NVIDIA H200', not {truncate(name)}")
    return text


def arch_of(gpu_slug: str) -> str | None:
    """The architecture of a table that does not say it, judged by the words of its name, or None."""
    return next((_ARCH_OF_WORD[word] for word in gpu_slug.split("_") if word in _ARCH_OF_WORD), None)


def name_similarity(one: str, other: str) -> int:
    """How many leading words two slugs share: an H100 of any form factor is nearer to an H100 than to an H200."""
    words, others = one.split("_"), other.split("_")
    return next((n for n, pair in enumerate(zip(words, others, strict=False)) if pair[0] != pair[1]), len(words))
