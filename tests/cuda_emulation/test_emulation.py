"""What the tests of CUDA kernels stand on: the emulation finds what it is there to find."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.cuda_emulation import build

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def probes():
    return build.load("_cuda_emulation_probes")


@pytest.fixture(params=build.SCHEDULES)
def schedule(request, probes):
    build.use_schedule(probes, request.param, seed=1)
    yield request.param
    build.use_schedule(probes, "in order")


@pytest.mark.parametrize(("delta", "width"), [(0, 32), (1, 32), (5, 32), (31, 32), (3, 8), (1, 2), (7, 4)])
def test_lanes_read_each_other(probes, schedule, delta, width):
    x, out = torch.randn(64), torch.full((5, 64), math.nan)
    probes.shuffle(x, out, delta, width)
    lane = torch.arange(64)
    start = lane // width * width
    sources = [
        start + delta % width,
        torch.where(lane - delta < start, lane, lane - delta),
        torch.where(lane + delta >= start + width, lane, lane + delta),
        torch.where((lane ^ delta) >= start + width, lane, lane ^ delta),
    ]
    assert torch.equal(out[:4], torch.stack([x[source] for source in sources]))
    torch.testing.assert_close(out[4], x.view(8, 8).sum(1).repeat_interleave(8))


def test_lanes_vote(probes, schedule):
    x, out = torch.randn(64), torch.zeros(64, dtype=torch.int32)
    probes.vote(x, out)
    for warp in range(2):
        votes = sum(1 << i for i in range(32) if x[32 * warp + i] > 0)
        assert {int(v) % (1 << 32) for v in out[32 * warp :][:32]} == {votes}


def turned(probes, before, after):
    x = torch.arange(64, dtype=torch.float32)
    probes.turn(x, 5, before, after)
    return torch.equal(x, torch.arange(64).flip(0) + 5.0)


def test_barriers_hold_in_every_schedule(probes, schedule):
    assert turned(probes, True, True)


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False), (False, False)])
def test_the_shuffled_schedule_finds_a_missing_barrier(probes, before, after):
    for seed in range(3):
        build.use_schedule(probes, "shuffled", seed)
        assert not turned(probes, before, after)
    build.use_schedule(probes, "in order")


def test_divergence_is_named(probes, schedule):
    with pytest.raises(RuntimeError, match=r"thread \(\d+, 0, 0\) in __syncthreads at .*probes.cpp:\d+, others in"):
        probes.part_at(32)
    with pytest.raises(RuntimeError, match=r"thread \(\d+, 0, 0\) in __syncthreads at .*, others in|deadlock"):
        probes.part_at(20)
    with pytest.raises(
        RuntimeError, match=r"deadlock, .*thread \(\d+, 0, 0\) in .*, thread \(\d+, 0, 0\) in "
    ) as caught:
        probes.shuffle_alone(torch.zeros(1))
    assert set(re.findall(r"in (__\w+) at", str(caught.value))) == {"__syncthreads", "__shfl_xor_sync"}
    assert turned(probes, True, True), "a launch after a failed one"


def test_shared_memory_is_poisoned_before_each_block(probes):
    x = torch.zeros(1000)
    probes.read_shared(x, 1000, 4000)
    assert x.isnan().all()


@pytest.mark.skipif(
    "address" not in os.environ.get("TRANSMAMBA_SANITIZE", ""), reason="built without ASan: make sanitize"
)
def test_the_end_of_shared_memory_is_seen():
    code = (
        "import torch; from tests.cuda_emulation import build; "
        "build.load('_cuda_emulation_probes').read_shared(torch.zeros(101), 101, 400)"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
    assert "in read_shared" in result.stderr


def test_refused_launches_raise(probes):
    with pytest.raises(RuntimeError, match="CUDA kernel .*: invalid argument"):
        probes.read_shared(torch.zeros(1), 1, 100 << 10)
    with pytest.raises(RuntimeError, match="CUDA device 3: invalid device ordinal"):
        probes.on_device(torch.zeros(1), 3)
    probes.evaluate(torch.zeros(0), torch.zeros(6, 0))  # an empty grid


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
def test_numbers_are_converted_as_torch_does(probes, source, target):
    if source == torch.float32:
        x = torch.cat(
            [
                torch.randn(992) * 10.0 ** torch.randint(-9, 6, (992,)),
                torch.tensor([0.0, -0.0, math.inf, -math.inf] * 8),
            ]
        )
        x[5] = math.nan
    else:
        x = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(source)
    for name, arguments in (("convert", ()), ("convert_vectors", (4,)), ("convert_vectors", (8,))):
        y = torch.full_like(x, 7, dtype=target)
        getattr(probes, name)(x, y, *arguments)
        torch.testing.assert_close(y, x.to(target), rtol=0, atol=0, equal_nan=True)


def test_elementary_functions(probes):
    x = torch.cat([torch.linspace(-100, 100, 4001), torch.linspace(-1, 1, 501)])
    out = torch.full((6, len(x)), math.nan)
    probes.evaluate(x, out)
    wide = x.double().requires_grad_()
    silu, softplus = F.silu(wide), torch.logaddexp(wide, torch.zeros(()).double())
    slopes = [torch.autograd.grad(y.sum(), wide)[0] for y in (silu, softplus)]
    expected = torch.stack([2**wide, wide.sigmoid(), silu, softplus, *slopes]).detach()
    torch.testing.assert_close(out.double(), expected, rtol=2e-5, atol=1e-36)


def test_elementary_functions_at_the_edges(probes):
    x = torch.tensor([-math.inf, math.inf, math.nan, 0.0])
    out = torch.full((6, 4), 7.0)
    probes.evaluate(x, out)
    exp2, sigmoid, _, softplus, _, slope = out.unbind()
    assert exp2[[0, 1, 3]].tolist() == [0, math.inf, 1]
    assert sigmoid[[0, 1, 3]].tolist() == slope[[0, 1, 3]].tolist() == [0, 1, 0.5]
    assert softplus[:2].tolist() == [0, math.inf]
    assert out[:, 2].isnan().all()
