# SPDX-License-Identifier: Apache-2.0
"""Long work tells a terminal what it does, and a pipe nothing."""

import io
import sys

import pytest

from helion_compile.cli.progress import show_phase


class Stderr(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_phase(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stderr := Stderr(terminal))
    with show_phase("tracing the model"):
        pass
    assert ("tracing the model …" in stderr.getvalue()) == terminal
