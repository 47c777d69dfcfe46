"""What can be said of the benchmarks without a GPU: they are found, explain themselves, and say what they lack."""

import pytest
import torch

from helion_compile.__main__ import COMMANDS, main

MEASURED = ["chains", "kernels", "layers", "launch", "vllm"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: " in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", MEASURED)
def test_without_a_gpu_a_sentence(name):
    with pytest.raises(SystemExit, match=rf"bench {name} measures on a GPU, and torch .* finds none here\."):
        main(["bench", name])


def test_an_unknown_command_is_answered_with_the_known_ones(capsys):
    assert main(["bench", "speed"]) == 2
    error = capsys.readouterr().err
    assert "There is no command in 'bench speed'." in error
    assert all(command in error for command in COMMANDS)
