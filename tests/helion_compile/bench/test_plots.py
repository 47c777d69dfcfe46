"""Pictures of measurements: drawn from rows alone, the same for the same rows."""

import sys

import pytest

from helion_compile.bench import plots

MACHINE = {"gpu": "NVIDIA H200", "bytes_per_s": 4.3e12, "flops_per_s": 1.4e15}
ROWS = [
    {
        "kernel": kernel,
        "m": m,
        "k": k,
        "us": 2 + m * k / 3e6,
        "baselines": {"inductor": 3 + m * k / 2e6, "vllm": 5 + m * k / 1e6},
        "bytes": 3 * m * k,
        "flops": flops * m * k,
    }
    for kernel, flops in (("quant", 3), ("rms_norm_quant", 7), ("scaled_mm", 2 * 4096), ("rope", 4))
    for k in (2048, 4096)
    for m in (1, 64, 4096)
]


def test_files_are_drawn_and_equal_for_equal_rows(tmp_path):
    files = plots.draw(ROWS, MACHINE, tmp_path / "first")
    again = plots.draw(ROWS, MACHINE, tmp_path / "second")
    assert [file.name for file in files] == ["speedup.png", "speedup.svg", "roofline.png", "roofline.svg"]
    for one, other in zip(files, again, strict=True):
        assert one.stat().st_size > 5000
        if one.suffix == ".png":  # ids in an SVG are random
            assert one.read_bytes() == other.read_bytes()


def test_other_rows_give_another_picture(tmp_path):
    first = plots.draw(ROWS, MACHINE, tmp_path / "first")
    slower = [row | {"us": row["us"] * 2} for row in ROWS]
    second = plots.draw(slower, MACHINE, tmp_path / "second")
    assert first[0].read_bytes() != second[0].read_bytes() and first[2].read_bytes() != second[2].read_bytes()


def test_without_matplotlib_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"pip install helion-compile\[plot\]"):
        plots.draw(ROWS, MACHINE, tmp_path)
