"""The op inside torch: opcheck, compile, export, inference mode, forks."""

import multiprocessing

import pytest
import torch

from tests.transmamba_kernels.conv_state_update.cases import make_inputs, run
from transmamba_kernels import conv_state_update

CASES = [
    make_inputs,
    lambda: make_inputs(length=3, without=("bias",)),
    lambda: make_inputs(2, rows=5, circular=True, entries=6, state_dtype=torch.bfloat16),
]


@pytest.mark.parametrize("case", CASES)
def test_opcheck(case):
    torch.library.opcheck(torch.ops.transmamba.conv_state_update.default, (*case().values(), "cpp", True))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_compile(case, dynamic, backend):
    torch._dynamo.reset()
    compiled = torch.compile(conv_state_update, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    inputs = case()
    expected = run(inputs, backend)
    out = compiled(**inputs, activation="silu", backend=backend)
    torch.testing.assert_close(out, expected["out"])
    torch.testing.assert_close(inputs["conv_state"], expected["conv_state"])


def test_export():
    class Step(torch.nn.Module):
        def forward(self, x, state, weight, bias):
            return conv_state_update(x, state, weight, bias, "silu")

    arguments = tuple(list(make_inputs().values())[:4])
    exported = torch.export.export(Step(), arguments)
    assert any("transmamba.conv_state_update" in str(node.target) for node in exported.graph.nodes)
    state = arguments[1].clone()
    out = exported.module()(*arguments)
    assert torch.equal(out, Step()(arguments[0], state, *arguments[2:]))
    assert torch.equal(arguments[1], state)


def test_inference_mode():
    with torch.inference_mode():
        inputs = make_inputs()
        expected = run(inputs, "cpp")
        assert torch.equal(conv_state_update(**inputs, activation="silu"), expected["out"])
        assert torch.equal(inputs["conv_state"], expected["conv_state"])


def _in_a_child(queue):
    torch.set_num_threads(1)
    queue.put(run(make_inputs(), "cpp")["out"].sum().item())


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_forked_child_on_one_thread(threads):
    run(make_inputs(40, 1000), "cpp")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue,))
    child.start()
    assert isinstance(queue.get(timeout=60), float)
    child.join(timeout=60)
    assert child.exitcode == 0
