# SPDX-License-Identifier: Apache-2.0
"""Random sequences of calls through launch plans, each compared bit for bit with Helion's own launch of the same call.

``HELION_COMPILE_LAUNCH_CALLS=100000`` makes that many; a few thousand by default.  ``HELION_COMPILE_LAUNCH_SEED`` chooses
others.
"""

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helion_compile import counters
from helion_compile.kernels import norm_quant, quant
from helion_compile.runtime.call_site import CallSite
from helion_compile.runtime.call_target import make_call_target, make_host_function
from helion_compile.runtime.dry_run import PlanRequest, collect_plan_requests
from helion_compile.runtime.plan_cache import plan_lock
from helion_compile.runtime.plan_key import make_plan_key
from helion_compile.runtime.record import NotReplayable, compile_launch, list_launches
from tests.support.launch_kernels import mixed, rows_of_view, scale_in_place

CALLS = int(os.environ.get("HELION_COMPILE_LAUNCH_CALLS", 3000))
SEED = int(os.environ.get("HELION_COMPILE_LAUNCH_SEED", 1))
FLOATS = (0.0, -0.0, 1.0, 2.0, -1.5, 1e-6, float("inf"), float("nan"))
INTEGERS = (0, 1, 2, 15, 16, 17, -1, -16, 2**31 - 1, 2**31 + 16, 2**40)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def own_launch(kernel, args):
    """Helion's host function for the config that the plan has too, launching through Triton."""
    with plan_lock():
        host = make_host_function(kernel, args, kernel.pick(args).config)
    return host(*args)


class Calls:
    """Draws arguments: sizes, strides, alignments, dtypes and scalars from small sets, so that plans are met again."""

    def __init__(self, seed: int, device: int) -> None:
        self.random = random.Random(seed)
        self.device = torch.device("cuda", device)
        with torch.cuda.device(device):
            noise = torch.randn(1 << 16, device=self.device) * 3
        self.memory = {dtype: noise.to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}

    def tensor(self, shape, dtype=torch.float32, layout="rows"):
        *_, rows, last = shape
        step = last + {"one more": 1, "sixteen more": 16}.get(layout, 0)
        strides = {"transposed": (1, rows), "expanded": (0, 1)}.get(layout, (step, 1))
        strides = strides if len(shape) == 2 else (rows * step, step, 1)
        return self.memory[dtype].as_strided(shape, strides, self.random.choice((0, 0, 8, 1, 3)))

    def draw(self):
        """A kernel and the arguments of a call; of many facts two or three vary at a time, to bound what is compiled."""
        choose, kind = self.random.choice, self.random.randrange(10)
        if kind < 3:
            shape = (choose((1, 2, 15, 16, 17, 32, 48, 64, 100)), choose((1, 16, 17, 64, 128)))
            layout = choose(("rows", "one more", "sixteen more", "transposed", "expanded"))
            return mixed, (self.tensor(shape, layout=layout), None, 2.0, 3, False)
        if kind < 5:
            return mixed, (self.tensor((17, 64)), None, choose(FLOATS), choose(INTEGERS), choose((True, False)))
        if kind == 5:
            shape, dtype = choose(((16, 64), (17, 17))), choose(DTYPES)
            x = self.tensor(shape, dtype)
            return mixed, (x, choose((None, x, self.tensor(shape, dtype, choose(("rows", "transposed"))))), 2.0, 3, False)
        if kind == 6:
            return rows_of_view, (self.tensor((choose((1, 2, 3)), choose((1, 16, 17)), choose((16, 17))), choose(DTYPES)),)
        if kind == 7:
            x = self.tensor((choose((1, 16, 17)), choose((16, 17))))
            copy = torch.empty(x.numel() + 8, dtype=x.dtype, device=self.device)[choose((0, 1)) :]
            return scale_in_place, (copy[: x.numel()].view(x.shape).copy_(x), choose(FLOATS))
        k, dtype = choose((64, 256)), choose((torch.bfloat16, torch.float32))
        x = self.tensor((choose((1, 2, 16, 33, 64, 200)), k), dtype, choose(("rows", "one more", "sixteen more")))
        attributes = (None, None, "float8_e4m3fn clamp=-448:448", False)
        if kind == 8:
            return quant, (x, *attributes)
        weight = self.memory[dtype].as_strided((k,), (1,), choose((0, 1)))
        static, bound, quantizer, exact = attributes
        norm = choose((1e-6, 1e-5, 0.0)), "rms cast_then_scale"
        return norm_quant, (x, weight, None, None, static, bound, *norm, quantizer, exact, False)


def prepare(calls: Calls, number: int) -> None:
    """Compile on all cores what that many calls need: one after another it would take minutes."""
    wanted: dict[object, PlanRequest] = {}
    with torch.no_grad(), collect_plan_requests(lambda each: wanted.setdefault((each.kernel.name, each.key), each)):
        for _ in range(number):
            kernel, args = calls.draw()
            if (kernel.name, make_plan_key(args, [])) not in wanted:
                kernel(*args)
    needed = []
    for each in wanted.values():
        args = each.make_args()
        try:
            needed += list_launches(make_host_function(each.kernel, args, each.kernel.pick(args).config), args)
        except NotReplayable:
            pass
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda launch: compile_launch(*launch), needed))
        for each in wanted.values():
            make_call_target(each.kernel, each.make_args(), each.store, each.key)
        # Triton 3.6 runs a C compiler for its own launcher of each signature.
        list(pool.map(lambda launch: compile_launch(*launch).run, needed))


class Compared:
    """Counts on the GPU, without waiting for it, results that differ in any bit."""

    def __init__(self, device) -> None:
        self.differing = {}
        self.device = device

    def add(self, kernel, ours, theirs) -> None:
        ours, theirs = (value if isinstance(value, tuple) else (value,) for value in (ours, theirs))
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)
            if kernel.name not in self.differing:
                with torch.inference_mode(False):
                    self.differing[kernel.name] = torch.zeros((), dtype=torch.int64, device=self.device)
            self.differing[kernel.name] += (bits(a) != bits(b)).any()

    @property
    def names(self) -> list[str]:
        """Of kernels with a result that differed."""
        return [f"{name}: {count.item()}" for name, count in self.differing.items() if count.item()]


def bits(x):
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()])


def run(calls: Calls, number: int, streams) -> Compared:
    sites = {}
    compared = {stream: Compared(calls.device) for stream in streams}
    torch.cuda.synchronize()
    for _ in range(number):
        stream = calls.random.choice(streams)
        with torch.cuda.stream(stream):  # which also owns what is copied for the call
            kernel, args = calls.draw()
        mode = calls.random.choice((torch.no_grad, torch.inference_mode, torch.enable_grad))
        with torch.cuda.device(calls.device), torch.cuda.stream(stream), mode():
            if kernel is scale_in_place:
                x, *rest = args
                theirs = torch.empty(x.numel() + 8, dtype=x.dtype, device=x.device)[(x.data_ptr() % 16 > 0) :]
                theirs = theirs[: x.numel()].view(x.shape).copy_(x)
                own_launch(kernel, (theirs, *rest))
                kernel(x, *rest)
                compared[stream].add(kernel, x, theirs)
                continue
            theirs = own_launch(kernel, args)
            through_site = calls.random.random() < 0.4
            ours = at_site(sites, kernel, args, theirs) if through_site else kernel(*args)
            compared[stream].add(kernel, ours, theirs)
    torch.cuda.synchronize()
    return compared


def at_site(sites, kernel, args, like):
    """The call as generated code makes it, with outputs allocated and sizes and strides passed as symbols."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    rest = [None if isinstance(arg, torch.Tensor) else (type(arg), repr(arg)) for arg in args]
    symbolic = kernel is mixed  # others as in a graph with fixed sizes
    layouts = [(t.shape, t.stride()) for t in tensors]
    key = (kernel.name, *rest, *(t.dtype for t in tensors), *((t.dim(),) if symbolic else () for t in tensors))
    key = key if symbolic else (*key, *layouts)
    outputs = tuple(torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).fill_(1) for t in as_tuple(like))
    if key not in sites:
        constants = [None if isinstance(arg, torch.Tensor) else (arg,) for arg in args]

        def arguments(*values):
            given = iter(values)
            return tuple(next(given) if constant is None else constant[0] for constant in constants)

        sites[key] = CallSite(kernel.key, len(tensors), len(outputs), arguments)
    symbols = [number for shape, stride in layouts for number in (*shape, *stride)] if symbolic else []
    sites[key].call(*tensors, *outputs, *symbols)
    return outputs if isinstance(like, tuple) else outputs[0]


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.timeout(1200)
def test_random_calls_give_what_helions_own_launch_gives():
    before = counters.copy()
    for device in range(torch.cuda.device_count()):
        with torch.cuda.device(device):
            prepare(Calls(SEED, device), min(CALLS, 8000))
        calls = Calls(SEED, device)
        streams = [torch.cuda.default_stream(device), *(torch.cuda.Stream(device) for _ in range(2))]
        compared = run(calls, CALLS // torch.cuda.device_count(), streams)
        assert [name for each in compared.values() for name in each.names] == []
    planned = counters.planned - before.planned
    print(f"{CALLS} calls, {planned} plans, {counters.loaded - before.loaded} binaries")
    assert 0 < planned < CALLS  # plans were made, and met again


@pytest.mark.timeout(1200)
def test_threads_give_what_helions_own_launch_gives():
    found = []

    def work(seed):
        device = seed % torch.cuda.device_count()
        with torch.cuda.device(device):
            compared = run(Calls(seed, device), CALLS // 20, [torch.cuda.Stream(device)])
            found.append([name for each in compared.values() for name in each.names])

    threads = [threading.Thread(target=work, args=(100 * SEED + n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[]] * 4
