"""What only a GPU shows: streams, devices, graphs, large tensors and grids, bits under load, stray accesses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.operators import ALL, SEQUENCES
from tests.tolerances import assert_all_close, assert_close
from tests.transmamba_kernels.causal_conv1d import cases as conv
from tests.transmamba_kernels.selective_scan import cases as scan
from tests.transmamba_kernels.state_update import cases as scan_step
from transmamba_kernels import causal_conv1d, selective_scan

ROOT = Path(__file__).parents[2]
LENGTH = 33


def outputs(op, backend, inputs):
    """Results and the state after the call, which is left as it was, in one list."""
    given = {**inputs, op.state: inputs[op.state].clone()} if op.state else inputs
    found = op.function(**given, backend=backend, **op.options)
    return [*((found,) if torch.is_tensor(found) else found), *([given[op.state]] if op.state else [])]


def trained(op, backend, inputs):
    """Results and the gradients of everything."""
    if op.state:
        return outputs(op, backend, inputs)
    leaves = {
        name: t.detach().requires_grad_() if t is not None and t.is_floating_point() else t
        for name, t in inputs.items()
    }
    found = outputs(op, backend, leaves)
    wanted = [t for t in leaves.values() if t is not None and t.requires_grad]
    return [*(t.detach() for t in found), *torch.autograd.grad(sum(t.float().square().sum() for t in found), wanted)]


def same(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def keep_busy(times=30):
    """Work for some milliseconds on the current stream."""
    x = torch.randn(4096, 4096, device="cuda")
    for _ in range(times):
        x = torch.nn.functional.normalize(x @ x)
    return x


@pytest.mark.parametrize("name", ALL)
def test_work_is_put_into_the_current_stream(gpu, name):
    """Inputs that are only there once the stream has done what was before would be read too early from another."""
    op = ALL[name]
    inputs = op.inputs("cuda", LENGTH)
    expected = trained(op, gpu.backend, inputs)
    late = {
        key: torch.full_like(t, torch.nan) if t is not None and t.is_floating_point() else t
        for key, t in inputs.items()
    }
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        keep_busy()
        for key, t in inputs.items():
            if t is not None and t.is_floating_point():
                late[key].copy_(t)
        actual = trained(op, gpu.backend, late)
    stream.synchronize()
    same(actual, expected)


@pytest.mark.parametrize("name", ALL)
def test_work_runs_on_the_device_of_the_tensors(gpu, name):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    op = ALL[name]
    inputs = op.inputs("cuda:0", LENGTH)
    expected = trained(op, gpu.backend, inputs)
    actual = trained(op, gpu.backend, {key: None if t is None else t.to("cuda:1") for key, t in inputs.items()})
    assert torch.cuda.current_device() == 0
    assert all(t.device.index == 1 for t in actual)
    same([t.to("cuda:0") for t in actual], expected)


def captured(call):
    """A CUDA graph of ``call()`` and what the call returned, whose memory a replay fills."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles and loads what a capture could not
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph, results


@pytest.mark.parametrize("name", ALL)
def test_forward_in_a_graph(gpu, name):
    op = ALL[name]
    inputs = op.inputs("cuda", LENGTH)
    with torch.no_grad():
        graph, results = captured(lambda: outputs(op, gpu.backend, inputs))
        for _ in range(3):
            for t in inputs.values():
                if t is not None and t.is_floating_point():
                    t.copy_(t + 0.1 * torch.rand_like(t) * t)  # another number, of the same sign
            graph.replay()
            same(results, outputs(op, gpu.backend, inputs))


@pytest.mark.parametrize("name", SEQUENCES)
def test_training_step_in_a_graph(gpu, name):
    op = SEQUENCES[name]
    inputs = op.inputs("cuda", LENGTH)
    parameters = {key: t for key, t in inputs.items() if t is not None and t.is_floating_point()}
    start = {key: t.clone() for key, t in parameters.items()}

    def step():
        leaves = {key: t.detach().requires_grad_() for key, t in parameters.items()}
        found = outputs(op, gpu.backend, {**inputs, **leaves})
        loss = sum(t.float().square().mean() for t in found)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        with torch.no_grad():
            for t, gradient in zip(parameters.values(), gradients, strict=True):
                t.sub_(0.01 * gradient)
        return loss.detach()

    def from_the_start(once):
        for key, t in parameters.items():
            t.copy_(start[key])
        return torch.stack([once().clone() for _ in range(4)]), [t.clone() for t in parameters.values()]

    losses, ends = from_the_start(step)
    graph, loss = captured(step)

    def replay():
        graph.replay()
        return loss

    again, ends_again = from_the_start(replay)
    assert torch.equal(losses, again)
    assert not torch.equal(losses[-1], losses[0])
    same(ends_again, ends)


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_same_bits_under_load(gpu, name):
    op = SEQUENCES[name]
    inputs = op.inputs("cuda", 300, torch.bfloat16)
    expected = trained(op, gpu.backend, inputs)
    other = torch.cuda.Stream()
    for _ in range(20):
        with torch.cuda.stream(other):
            busy = keep_busy(2)
        same(trained(op, gpu.backend, inputs), expected)
    other.synchronize()
    assert busy.isfinite().all()


def enough_memory(gibibytes):
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < gibibytes * 2**30:
        pytest.skip(f"needs {gibibytes} GiB of memory, {free / 2**30:.0f} are free")


BATCH, CHANNELS, STEPS = 128, 4099, 4099  # beyond 2^31 elements


def large_sequence():
    return torch.randn(BATCH, STEPS, CHANNELS, device="cuda", dtype=torch.bfloat16).transpose(1, 2)


def check_last_row(call, tensors, parameters):
    """The last row of the batch, which begins and ends on two sides of 2^31, has what it has alone."""
    upstream = torch.zeros_like(tensors[0])
    upstream[-1].normal_()
    whole = [t.requires_grad_() for t in tensors]
    alone = [t.detach()[-1:].clone().requires_grad_() for t in tensors]
    results = []
    for given, gradient in ((whole, upstream), (alone, upstream[-1:].clone())):
        leaves = [t.detach().requires_grad_() for t in parameters]
        out = call(*given, *leaves)
        gradients = torch.autograd.grad(out, [*given, *leaves], gradient)
        rows = [t[-1:].clone() if t.dim() == 3 else t for t in (out.detach(), *gradients)]
        results.append(rows)
        del out, gradients
    for actual, expected in zip(*results, strict=True):
        assert expected.float().abs().max() > 0
        assert_close(actual, expected.double(), torch.bfloat16)


def test_a_convolution_beyond_32_bits(gpu):
    enough_memory(30)

    def call(x, weight, bias):
        return causal_conv1d(x, weight, bias, activation="silu", backend=gpu.backend)

    parameters = torch.randn(CHANNELS, 4, device="cuda"), torch.randn(CHANNELS, device="cuda")
    check_last_row(call, [large_sequence()], parameters)


def test_a_scan_beyond_32_bits(gpu):
    enough_memory(60)
    B, C = (torch.randn(BATCH, 2, STEPS, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    A, D, bias = -torch.rand(CHANNELS, 2, device="cuda") - 0.1, *torch.randn(2, CHANNELS, device="cuda")

    def call(u, delta, z, B, C, A, D, bias):
        return selective_scan(u, delta, A, B, C, D, z, bias, True, backend=gpu.backend)

    check_last_row(call, [large_sequence(), large_sequence(), large_sequence(), B, C], [A, D, bias])


@pytest.mark.parametrize(("batch", "d_inner"), [(70_001, 3), (1, 4_300_001)])
def test_grids_beyond_their_limits(gpu, batch, d_inner):
    for cases, options in ((scan, {"d_state": 2}), (conv, {"width": 3})):
        inputs = cases.make_inputs(batch, d_inner, 3, without=("initial_state",), **options)
        expected = cases.run(inputs, "reference", dtype=torch.float64)
        assert_all_close(cases.run(inputs, gpu.backend, device="cuda"), expected, torch.float32)
    inputs = scan_step.make_inputs(batch, (d_inner,), 2)
    assert_all_close(
        scan_step.run(inputs, gpu.backend, device="cuda"), scan_step.run(inputs, "reference"), torch.float32
    )


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer(gpu, tool):
    """Every op once, on memory that torch does not share out itself, so that each tensor has an end that is seen."""
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        pytest.skip("no compute-sanitizer: it comes with the CUDA toolkit")
    if gpu.backend == "triton" and tool != "memcheck":
        pytest.skip("barriers are Triton's own")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "99", "--print-limit", "5"]
    if tool == "memcheck":
        command += ["--report-api-errors", "no"]  # torch asks for what a driver may not have
    command += [sys.executable, "-m", "tests.gpu.once", gpu.backend]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.skip("takes longer than 90 seconds here")
    text = f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
    if "not supported" in text:
        pytest.skip(f"compute-sanitizer does not know this device: {text[-300:]}")
    assert done.returncode == 0, text
    assert "every op ran" in done.stdout, text
