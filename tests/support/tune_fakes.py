# SPDX-License-Identifier: Apache-2.0
"""A GPU and a compiler that are not there: times follow from the config, so that tests know which one has to win."""

import dataclasses
import json
import os
import signal
import time

import torch

from helion_compile import Tuning, kernel
from helion_compile.configs.case import Case
from helion_compile.tune.candidates import Space
from helion_compile.tune.compiling import Compiled
from helion_compile.tune.journal import config_text

BEST_WARPS = 8


def _reference(x):
    return x + 1


def _inputs(case, device):
    return (torch.zeros(case["num_tokens"], case["hidden_size"], dtype=torch.bfloat16, device=device),)


@kernel(
    reference=_reference,
    case=lambda x: Case(hidden_size=x.size(-1), num_tokens=x.size(0), dtype=x.dtype),
    tuning=Tuning(
        inputs=_inputs,
        shapes=lambda layer: [{"hidden_size": layer.hidden_size}, {"hidden_size": layer.intermediate_size}],
    ),
)
def plus_one(x):
    raise AssertionError("no test runs it")


def _library(x, *, out=None):
    raise AssertionError("no test runs it")


@kernel(
    reference=_reference,
    case=lambda x: Case(hidden_size=x.size(-1), num_tokens=x.size(0), dtype=x.dtype),
    tuning=Tuning(
        inputs=_inputs,
        shapes=lambda layer: [{"hidden_size": layer.hidden_size}],
        candidates=lambda case: [{"num_warps": warps} for warps in (2, 4, 8)] if case["num_tokens"] < 5000 else [],
    ),
    fallbacks={"library": _library},
)
def plus_one_or_library(x):
    raise AssertionError("no test runs it")


LIBRARY_US = 6.0  # plus_one_or_library takes 4.5 and more for more tokens

GPU = {
    "name": "NVIDIA H200",
    "capability": (9, 0),
    "multiprocessors": 132,
    "versions": {"helion": "1.4.0", "triton": "3.6.0", "torch": "2.11.0"},
}


def us_of(config: dict, case) -> float:
    """4 µs with 8 warps and a persistent grid; anything else is slower."""
    away = abs((config.get("num_warps", 4)).bit_length() - BEST_WARPS.bit_length())
    return 4.0 + away + (0.0 if config.get("pid_type", "flat") != "flat" else 0.5) + 0.001 * case["num_tokens"]


def log(line):
    if path := os.environ.get("FAKE_LOG"):
        with open(path, "a") as file:
            file.write(f"{line}\n")


class Compiler:
    """The "code" is the config itself.  ``num_warps=1`` spills, and nothing compiles with 32.

    FAKE_COMPILE_ERROR: nothing compiles, for this reason.  FAKE_COMPILE_CRASH: this warp count kills the process.
    FAKE_COMPILE_SECONDS: how long one takes.  FAKE_LOG: as below.
    """

    def compile(self, target, name, facts, config):
        log(f"compiled {name} {Case.from_json(dict(facts))} {config_text(config)}")
        time.sleep(float(os.environ.get("FAKE_COMPILE_SECONDS", 0)))
        if str(config.get("num_warps")) == os.environ.get("FAKE_COMPILE_CRASH"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if error := os.environ.get("FAKE_COMPILE_ERROR"):
            return Compiled("", "", error=error)
        if config.get("num_warps") == 32:
            return Compiled("", "", error="PTXASError: too many threads")
        return Compiled(json.dumps(config, sort_keys=True), name, spills=64 * (config.get("num_warps") == 1))


class Measurer:
    """Answers as GpuMeasurer does; the environment says what goes wrong.

    FAKE_CRASH: this warp count kills the process.  FAKE_WRONG: that one gives a wrong result.
    FAKE_SECONDS: how long a measurement takes.  FAKE_LOG: a file that gets a line for each.
    """

    def gpu(self):
        return GPU

    def open(self, name, case):
        self.case = case

    def close(self):
        pass

    def time(self, source, entry, careful, limit):
        if not source:
            return {"library": LIBRARY_US}[entry]
        config = json.loads(source)
        warps = str(config["num_warps"])
        log(f"{careful} {self.case} {config_text(config)}")
        if warps == os.environ.get("FAKE_CRASH"):
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
        return us_of(config, self.case)

    def sleep(self, seconds):
        time.sleep(seconds)
        return "awake"

    def variable(self, name):
        return os.environ.get(name)

    def fail(self, text):
        raise KeyError(text)

    def break_context(self):
        """As a config does that reads where it must not: from now on every CUDA call of the process fails."""

        def fails(*args, **kwargs):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        torch.cuda.is_initialized = lambda: True
        torch.cuda.synchronize = fails
        fails()

    def check(self, source, entry):
        if not source:
            return None
        wrong = str(json.loads(source)["num_warps"]) == os.environ.get("FAKE_WRONG")
        return "result 0 is up to 9 fp8 steps from the reference" if wrong else None

    def prepare_baseline(self):
        pass

    def baseline(self):
        return 7.0


class FakeSpace(Space):
    """Warps and grid only, without Helion."""

    def __init__(self, kernel, case):
        self.defaults = {"block_sizes": [1], "num_warps": 4, "pid_type": "flat"}
        self.used = {}
        self.tunables = {}

    def code(self, config):
        return config_text(self.whole(config))

    def whole(self, config):
        return {**self.defaults, **config}

    def seeds(self, known):
        return [self.whole(config) for config in [*known, {}]]

    def steps(self, config):
        for warps in (config["num_warps"] // 2, config["num_warps"] * 2):
            if 1 <= warps <= 32:
                yield f"num_warps {config['num_warps']} {warps}", {**config, "num_warps": warps}
        for pid in ("flat", "persistent_interleaved"):
            if pid != config["pid_type"]:
                yield f"pid_type {pid}", {**config, "pid_type": pid}


def search(name, case, seconds, modules, environment):
    """What Helion's autotuner would find: the best for few tokens, nothing for many."""
    if case["num_tokens"] > 1:
        raise ValueError(f"it found nothing in {seconds:.0f} s")
    return {"block_sizes": [1], "num_warps": 8, "pid_type": "flat"}


def with_fakes(settings, variables, **more):
    """Settings of the tuner with the fakes in the place of GPU and compiler.

    FAKE_SPACE=helion: Helion's own space of configs.  FAKE_PROCESSES: that compile.
    """
    return dataclasses.replace(
        settings,
        measurer="tests.support.tune_fakes:Measurer",
        compiler="tests.support.tune_fakes:Compiler",
        start="forkserver",
        search=search,
        space=Space if variables.get("FAKE_SPACE") == "helion" else FakeSpace,
        processes=int(variables.get("FAKE_PROCESSES", 1)),
        baselines=1,
        modules=("tests.support.tune_fakes",),
        **more,
    )


def main(argv) -> int:
    """The command, with the fakes, in a process of its own."""
    from helion_compile.tune import __main__ as command

    real = command._settings
    command._settings = lambda options: with_fakes(real(options), os.environ)
    command._check_gpu = lambda: None
    return command.main(argv)


if __name__ == "__main__":
    import sys

    from tests.support import tune_fakes  # kernels and fakes are pickled under this name

    sys.exit(tune_fakes.main(sys.argv[1:]))
