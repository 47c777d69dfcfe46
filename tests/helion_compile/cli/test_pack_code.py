# SPDX-License-Identifier: Apache-2.0
"""``configs pack`` says what it packed, or why nothing."""

import pytest

from helion_compile.cli.main import main


@pytest.mark.parametrize("folder, said", [("", "has no code of the kernels as they are now"), ("missing", "is no folder")])
def test_nothing_to_pack(folder, said, tmp_path, capsys):
    assert main(["configs", "pack", str(tmp_path / folder)]) == 1
    assert said in capsys.readouterr().err
