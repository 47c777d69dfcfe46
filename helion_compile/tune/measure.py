# SPDX-License-Identifier: Apache-2.0
"""What a worker process does on the GPU: time a config, time what Inductor makes of ``reference``, check a result.

Times are of CUDA-graph replays with a cold L2: each launch of a graph has inputs and outputs of its own, and before each
replay the L2 is filled by reading other memory.  Reading, because lines left dirty would be written back while the clock
runs.  Outputs of their own, because a buffer that is written again and again stays in the L2 and never costs bandwidth.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from helion_compile import compat
from helion_compile.configs.case import Case
from helion_compile.definitions import registry
from helion_compile.definitions.spec import KernelSpec
from helion_compile.runtime.pdl import without_pdl
from helion_compile.runtime.record import NotReplayable, Plan, record_plan

__all__ = ["EIGHT_BITS", "GpuMeasurer", "differs", "in_order"]

CALLS = 128  # launches of one replay at most: with fewer, the 3 µs that a replay takes to start would show
REPLAY_US = 400.0  # and as many as take about this long
MEMORY = 1 << 30  # bytes of inputs at most, far more than an L2
BYTES_A_US = 3e6  # for the first guess of a kernel's time; an H200 copies 4.3e6
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)


class GpuMeasurer:
    """Times one kernel for one case after the other on the current GPU.

    Raises:
        SystemExit: there is none; it ends the process that this is made in with a sentence.
    """

    kernel: KernelSpec
    opened: tuple[str, Case] | None
    sets: list[tuple[Any, ...]]
    hosts: dict[str, Callable[..., Any]]
    _compiled: tuple[Callable[..., Any], Callable[..., list[torch.Tensor]]]

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise SystemExit(f"torch {torch.__version__} finds no GPU here.")
        torch.cuda.init()
        self.stream = torch.cuda.Stream()
        properties = torch.cuda.get_device_properties()
        self.flush = torch.zeros(2 * properties.L2_cache_size // 4, device="cuda", dtype=torch.float32)
        self.close()

    def gpu(self) -> dict[str, Any]:
        """What the parent, which stays without a CUDA context, has to know of the GPU and of this process."""
        from importlib.metadata import version

        properties = torch.cuda.get_device_properties()
        return {
            "name": properties.name,
            "capability": (properties.major, properties.minor),
            "multiprocessors": properties.multi_processor_count,
            "versions": {name: version(name) for name in ("helion", "triton")} | {"torch": torch.__version__},
        }

    def open(self, name: str, case: Case) -> None:
        """Make inputs for ``case``; those of the case before are freed."""
        if self.opened == (name, case):
            return
        self.close()
        self.kernel = registry.get_kernel(name)
        device = torch.device("cuda", torch.cuda.current_device())
        first = self.kernel.tuning.make_inputs(case, device)
        self.bytes = sum(arg.nbytes for arg in first if isinstance(arg, torch.Tensor))
        guess = 1.5 + 2 * self.bytes / BYTES_A_US
        self.calls = max(4, min(CALLS, int(REPLAY_US / guess)))
        count = max(2, min(self.calls, MEMORY // max(self.bytes, 1)))
        self.sets = [first, *(self.kernel.tuning.make_inputs(case, device) for _ in range(count - 1))]
        self.opened = name, case

    def close(self) -> None:
        self.opened = None
        self.sets = []
        self.hosts = {}

    def time(self, source: str, entry: str, careful: bool, limit: float) -> float:
        """Median µs a call of the config with this code, or of the fallback ``entry`` where there is no code.

        Of one replay only where that is above ``limit``.
        """
        runs, keep = self._runs(source, entry)
        us = self._replay(runs, 9 if careful else 5, limit)
        del keep
        return us

    def baseline(self) -> float:
        """Median µs a call of what Inductor makes of ``reference`` for these very sizes."""
        compiled, tensors = self._inductor(self.sets[0])
        held: list[Any] = []
        runs = [functools.partial(_keep, held, compiled, tensors(args)) for args in self.sets]
        runs[0]()
        del held[:]
        return self._replay(runs, 9)

    def prepare_baseline(self) -> None:
        """Compile the baseline, which may go on while another process measures."""
        compiled, tensors = self._inductor(self.sets[0])
        compiled(*tensors(self.sets[0]))
        torch.cuda.synchronize()

    def check(self, source: str, entry: str) -> str | None:
        """Why the config's result is not that of ``reference`` on fresh inputs, or None."""
        assert self.opened
        args = self.kernel.tuning.make_inputs(self.opened[1], torch.device("cuda", torch.cuda.current_device()))
        kernel = self.kernel
        ours = kernel.copy_mutated(args)
        theirs = kernel.copy_mutated(args)
        results = (*kernel.flatten_results(self._host(source, entry)(*ours)), *kernel.select_mutated(ours))
        expected = (*kernel.flatten_results(kernel.reference(*theirs)), *kernel.select_mutated(theirs))
        for index, (got, want) in enumerate(zip(results, expected, strict=True)):
            if sentence := differs(got, want):
                return f"result {index} {sentence}"
        return None

    def _host(self, source: str, entry: str) -> Callable[..., Any]:
        from helion_compile.compat import PyCodeCache

        if not source:
            return functools.partial(self.kernel.fallbacks[entry], out=None)
        if source not in self.hosts:
            self.hosts[source] = getattr(PyCodeCache.load(source), entry)
        return self.hosts[source]

    def _runs(self, source: str, entry: str) -> tuple[Sequence[Callable[[], Any]], Any]:
        """One launch for each set of inputs, and what has to stay alive for them."""
        host = self._host(source, entry)
        held: list[Any] = []
        if not source:
            fallback = self.kernel.fallbacks[entry]
            for args in self.sets:
                held.append(self.kernel.flatten_results(host(*args)))
            return [functools.partial(fallback, *args, out=out) for args, out in zip(self.sets, held, strict=True)], held
        try:
            plan = record_plan(host, self.kernel.copy_mutated(self.sets[0]), self.kernel.zeroed_workspace)
        except NotReplayable:
            runs = [functools.partial(_keep, held, host, args) for args in self.sets]
            runs[0]()
            del held[:]
            return runs, held
        runs = []
        for args in self.sets:
            outputs = [torch.empty_strided(b.shape, b.stride, dtype=b.dtype, device="cuda") for b in plan.outputs]
            held.append(outputs)
            tensors = [*(arg for arg in args if isinstance(arg, torch.Tensor)), *outputs]
            runs.append(functools.partial(_launch, plan, [tensor.data_ptr() for tensor in tensors]))
        return runs, held

    def _replay(self, runs: Sequence[Callable[[], Any]], repeats: int, limit: float = float("inf")) -> float:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self.stream):
            self.stream.wait_stream(torch.cuda.default_stream())
            runs[0]()  # loads the kernel, which a capture cannot
            self.stream.synchronize()
            # torch.cuda.graph() collects garbage and empties the allocator's cache first: a tenth of a second.
            graph.capture_begin()
            try:
                with without_pdl():  # the baseline's kernels do not overlap either
                    for run in itertools.islice(itertools.cycle(runs), self.calls):
                        run()
            finally:
                graph.capture_end()
            times = []
            for _ in range(repeats + 1):
                self.flush.amax()
                start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                graph.replay()
                stop.record()
                stop.synchronize()
                times.append(start.elapsed_time(stop) * 1e3 / self.calls)
                if times[0] > limit:
                    return times[0]
        return statistics.median(times[1:])

    def _inductor(self, args: tuple[Any, ...]) -> tuple[Callable[..., Any], Callable[..., list[torch.Tensor]]]:
        if getattr(self, "_compiled_for", None) == self.opened:
            return self._compiled
        compat.dynamo.reset()
        compat.dynamo_config.recompile_limit = 1000
        places = [index for index, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
        constants = [None if index in places else arg for index, arg in enumerate(args)]
        reference = self.kernel.reference

        def plain(*tensors: torch.Tensor) -> Any:
            values = list(constants)
            for place, tensor in zip(places, tensors, strict=True):
                values[place] = tensor
            return reference(*values)

        self._compiled = torch.compile(plain, dynamic=False, fullgraph=True), lambda args: [args[place] for place in places]
        self._compiled_for = self.opened
        return self._compiled


def _launch(plan: Plan, addresses: list[int]) -> None:
    plan.launch(*addresses)


def _keep(held: list[Any], function: Callable[..., Any], args: Sequence[Any]) -> None:
    held.append(function(*args))


def differs(got: torch.Tensor, want: torch.Tensor) -> str | None:
    """How ``got`` differs from ``want`` by more than rounding, as the rest of a sentence, or None.

    fp8: by more than one step; else: ‖got - want‖ / ‖want‖ above 4 times the dtype's precision.
    """
    if (got.shape, got.stride(), got.dtype) != (want.shape, want.stride(), want.dtype):
        return f"is {got.dtype} {tuple(got.shape)} where {want.dtype} {tuple(want.shape)} belongs"
    if got.dtype in EIGHT_BITS:
        a, b = got.float(), want.float()
        if not (torch.equal(a.isnan(), b.isnan()) and torch.equal(a.isinf(), b.isinf())):
            return "is not finite where the reference is, or the other way round"
        steps = (in_order(got) - in_order(want)).abs().masked_fill(a.isnan(), 0)
        worst = int(steps.max()) if steps.numel() else 0
        return f"is up to {worst} fp8 steps from the reference" if worst > 1 else None
    if not got.is_floating_point():
        return None if torch.equal(got, want) else "is not equal to the reference"
    error = ((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30)).item()
    limit = 4 * torch.finfo(got.dtype).eps
    return None if error <= limit else f"is {error:.1e} from the reference, more than {limit:.1e}"


def in_order(values: torch.Tensor) -> torch.Tensor:
    """8-bit floats as integers: neighbouring values are one apart, and -0 is 0."""
    bits = values.contiguous().view(torch.uint8).to(torch.int16)
    return torch.where(bits >= 128, 128 - bits, bits)
