# SPDX-License-Identifier: Apache-2.0
"""What ``bench random`` draws."""

import pytest

from helion_compile.bench import kernels, random_shapes
from helion_compile.bench.random_shapes import MOST_TOKENS, SCHEMES, draw_shapes
from helion_compile.bench.rows import Rows
from helion_compile.bench.subjects import SUBJECTS
from helion_compile.bench.work import Limits
from helion_compile.configs.gpu import Gpu


def test_a_seed_draws_the_same_shapes_and_another_others():
    assert list(draw_shapes(1, 26, 4)) == list(draw_shapes(1, 26, 4)) != list(draw_shapes(2, 26, 4))


def test_draws_reach_every_scheme_and_stay_within_the_range():
    draws = list(draw_shapes(0, 2 * len(SCHEMES), 4))
    assert sorted(draw.name for draw in draws) == sorted(SCHEMES * 2)
    tokens = [m for draw in draws for m in draw.tokens]
    assert min(tokens) >= 1 and max(tokens) <= MOST_TOKENS
    assert sum(m < 91 for m in tokens) == pytest.approx(len(tokens) / 2, abs=15)  # half below the root of the most


def test_every_draw_has_a_case():
    assert all(list(SUBJECTS[draw.name].fields(draw.k)) for draw in draw_shapes(3, 200, 1))


def test_inductor_compiles_a_draw_once_for_its_range_of_tokens(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(Gpu, "current", classmethod(lambda cls: Gpu("NVIDIA H200", (9, 0))))
    monkeypatch.setattr(random_shapes.course, "begin", lambda *args, **options: Rows(Limits(4e12)))
    monkeypatch.setattr("helion_compile.bench.rows.machine", lambda: {"gpu": "none"})
    monkeypatch.setattr(
        random_shapes, "compile_subject", lambda subject, dynamic: asked.append(dynamic) or subject.kernel.reference
    )
    monkeypatch.setattr(random_shapes, "row_of", lambda *args, **options: kernels.row_of(*args, **options, device="cpu"))
    monkeypatch.setattr(kernels, "rotating", lambda make, size: [make()])
    monkeypatch.setattr("helion_compile.bench.rows.device_us", lambda fn, sets, chained=False: 2.0)
    monkeypatch.setattr(random_shapes, "draw_shapes", lambda *_: [random_shapes.Draw("quant static", 1024, (3, 20))])
    assert random_shapes.main(["--seed", "5"]) == 0
    assert asked == [True]
    assert "K=1024 M=20" in capsys.readouterr().out
