# SPDX-License-Identifier: Apache-2.0
"""Which cases to tune: the shapes of a model's layers, read off its Hugging Face ``config.json``, times token counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helion_compile.configs.case import Case
from helion_compile.configs.files import parse_json, parse_value
from helion_compile.definitions.declaration import Tuning
from helion_compile.errors import check_type, truncate

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["Layer", "TuneError", "cases_of", "read_model", "read_shapes", "read_tokens"]

TOKENS = tuple(2**power for power in range(14))  # 1 … 8192


class TuneError(ValueError):
    """The tuner was asked for something that it cannot do, in one sentence."""


@dataclass(frozen=True)
class Layer:
    """Sizes of a decoder layer, in elements.

    ``attention_size`` is that of all query heads together, which the output projection reads.  ``head_dim`` and
    ``key_value_heads`` are None where nobody has said them.
    """

    hidden_size: int
    intermediate_size: int
    attention_size: int
    head_dim: int | None = None
    key_value_heads: int | None = None

    @property
    def key_value_size(self) -> int | None:
        """Of all heads of the keys, and of the values; None where nobody has said it."""
        return self.head_dim * self.key_value_heads if self.head_dim and self.key_value_heads else None


def read_model(path: Path) -> Layer:
    """The layer of a Hugging Face ``config.json``, of transformers or of diffusers, or of a folder that holds one.

    Raises:
        TuneError: no such file, or it lacks a size.
    """
    check_type("read_model(path)", path, (str, Path), "the path of a config.json")
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TuneError(f"{file} cannot be read as a model's config: {reason}; give the config.json of a model") from None
    if isinstance(content, dict) and isinstance(content.get("text_config"), dict):  # a model that also sees images
        content = content["text_config"]

    def size(name: str, default: int | None = None) -> int:
        value = content.get(name) if isinstance(content, dict) else None
        value = default if value is None else value
        if type(value) is not int or value < 1:
            raise TuneError(
                f"{file} has {name}={truncate(value)} where a positive integer belongs; name shapes by hand with --shapes"
            )
        return value

    heads = size("num_attention_heads")
    if isinstance(content, dict) and "attention_head_dim" in content:  # a transformer of diffusers
        head_dim = size("attention_head_dim")
        hidden = heads * head_dim
        return Layer(hidden, size("ffn_dim", 4 * hidden), hidden, head_dim, heads)
    hidden = size("hidden_size")
    head_dim = size("head_dim", max(hidden // heads, 1))
    return Layer(hidden, size("intermediate_size"), heads * head_dim, head_dim, size("num_key_value_heads", heads))


def read_tokens(text: str) -> tuple[int, ...]:
    """``"1,2,4,…,8192"``: a gap continues by doubling; sorted, each once.

    Raises:
        TuneError: something else than positive integers with commas between.
    """
    check_type("read_tokens(text)", text, str, "a text such as '1,2,4,…,8192'")
    tokens: list[int] = []
    gap = False
    for word in text.split(","):
        word = word.strip()
        if word in ("…", "..."):
            gap = True
            continue
        if not word.isdecimal() or not 0 < int(word) < 2**31:
            raise TuneError(f"--tokens has {truncate(word)} where a positive integer belongs, as in --tokens 1,2,4,…,8192")
        if gap and tokens:
            while tokens[-1] * 2 < int(word):
                tokens.append(tokens[-1] * 2)
        tokens.append(int(word))
        gap = False
    if gap:
        raise TuneError("--tokens ends in a gap; name the largest token count behind it, as in --tokens 1,2,…,8192")
    return tuple(sorted(set(tokens)))


def read_shapes(text: str) -> dict[str, Any]:
    """``"hidden_size=4096,residual=true"`` as key fields; values are JSON, or else words.

    Raises:
        TuneError: not of that form.
    """
    check_type("read_shapes(text)", text, str, "a text such as 'hidden_size=4096,residual=true'")
    fields: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise TuneError(f"--shapes has {truncate(part)} where FIELD=VALUE belongs, as in --shapes hidden_size=4096")
        fields[name] = parse_value(value)
    return fields


def cases_of(
    kernel: KernelSpec, layers: Iterable[Layer], shapes: Sequence[dict[str, Any]], tokens: Sequence[int], dtype: str
) -> list[Case]:
    """Each case of ``kernel`` for these layers and shapes once, in order; empty when the kernel takes none of them.

    Raises:
        TuneError: the kernel does not say how its inputs are made, or a shape lacks a key field or has one too many.
    """
    check_type("cases_of(kernel)", getattr(kernel, "tuning", kernel), Tuning, "a HelionKernel")
    layers, shapes, tokens = _list("layers", layers, Layer), _list("shapes", shapes, dict), _list("tokens", tokens, int)
    if kernel.tuning.inputs is None or (kernel.tuning.shapes is None and not shapes):
        lacks, field = ("its inputs are made", "inputs") if kernel.tuning.inputs is None else ("its cases follow", "shapes")
        raise TuneError(
            f"{kernel.short_name} cannot be tuned: it does not say how {lacks}; give @kernel tuning=Tuning({field}=…)"
        )
    shapes_of = kernel.tuning.shapes or (lambda _: ())
    found = {Case(**{"dtype": dtype, **fields}) for layer in layers for fields in shapes_of(layer)}
    for fields in shapes:
        try:
            found.add(Case(**{"dtype": dtype, **fields}))
        except ValueError as error:
            raise TuneError(f"--shapes names no case: {error}") from None
    rounded = kernel.configs.bucketed[0] if kernel.configs.bucketed else None
    every = found if rounded is None else {case.replace(**{rounded: count}) for case in found for count in tokens}
    for case in every:
        _check(kernel, case)
    return sorted(every)


def _list(name: str, items: Any, kind: type) -> list[Any]:
    found = list(items) if isinstance(items, Iterable) else [items]
    for item in found:
        check_type(f"an item of cases_of({name}=…)", item, kind, f"a {kind.__name__}, in a list of them")
    return found


def _check(kernel: KernelSpec, case: Case) -> None:
    """That the kernel's own case of the inputs made for ``case`` is ``case``; on tensors without data."""
    import torch

    try:
        with torch.device("meta"):
            found = kernel.case(*kernel.tuning.make_inputs(case, torch.device("meta")))
    except KeyError as error:
        raise TuneError(
            f"{kernel.short_name} needs more key fields than ({case}): {error.args[0]}; add it to --shapes"
        ) from None
    except Exception as error:  # of the functions that the kernel gives, about a value that none of them expects
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
        raise TuneError(f"{kernel.short_name} has no case ({case}): {reason}; correct its key fields in --shapes") from error
    if found != case:
        raise TuneError(
            f"{kernel.short_name} has no case ({case}): inputs made for it are of ({found}); name its key fields in --shapes"
        )
