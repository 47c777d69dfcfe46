# SPDX-License-Identifier: Apache-2.0
"""Tuning needs a GPU, and says so before it starts processes."""

from unittest import mock

import pytest
import torch

from helion_compile.cli.main import main
from helion_compile.tune import tuner


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with mock.patch.object(tuner.Tuner, "run") as run:
        yield run


def test_it_is_said_at_once(no_gpu, capsys):
    assert main(["tune", "quant", "--shapes", "hidden_size=4096"]) == 1
    assert "finds no GPU here" in capsys.readouterr().err
    no_gpu.assert_not_called()


def test_cases_are_listed_without_one(no_gpu, capsys):
    assert main(["tune", "quant", "--shapes", "hidden_size=4096", "--tokens", "1", "--dry-run"]) == 0
    assert "hidden_size=4096" in capsys.readouterr().out
