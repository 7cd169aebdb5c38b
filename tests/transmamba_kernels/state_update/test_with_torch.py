"""The op inside torch: opcheck, compile, export, inference mode, subclasses, forks."""

import multiprocessing

import pytest
import torch

from tests.transmamba_kernels.state_update.cases import make_inputs, mamba2_inputs, run
from transmamba_kernels import state_update

CASES = [
    make_inputs,
    mamba2_inputs,
    lambda: make_inputs(2, (4, 5), groups=2, without=("D", "z", "dt_bias")),
    lambda: make_inputs(2, rows=5, state_dtype=torch.bfloat16),
]


@pytest.mark.parametrize("case", CASES)
def test_opcheck(case):
    inputs = case()
    indices = inputs.pop("state_batch_indices", None)
    torch.library.opcheck(torch.ops.transmamba.state_update.default, (*inputs.values(), indices, "cpp", True))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_compile(case, dynamic, backend):
    torch._dynamo.reset()
    compiled = torch.compile(state_update, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    inputs = case()
    expected = run(inputs, backend)
    out = compiled(**inputs, dt_softplus=True, backend=backend)
    torch.testing.assert_close(out, expected["out"])
    torch.testing.assert_close(inputs["state"], expected["state"])


def test_export():
    class Step(torch.nn.Module):
        def forward(self, state, x, dt, A, B, C):
            return state_update(state, x, dt, A, B, C)

    arguments = tuple(list(make_inputs().values())[:6])
    exported = torch.export.export(Step(), arguments)
    assert any("transmamba.state_update" in str(node.target) for node in exported.graph.nodes)
    state = arguments[0].clone()
    out = exported.module()(*arguments)
    assert torch.equal(out, state_update(state, *arguments[1:]))
    assert torch.equal(arguments[0], state)


def test_inference_mode():
    with torch.inference_mode():
        inputs = make_inputs()
        expected = run(inputs, "cpp")
        assert torch.equal(state_update(**inputs, dt_softplus=True), expected["out"])
        assert torch.equal(inputs["state"], expected["state"])


def test_subclasses_and_parameters():
    class Named(torch.Tensor):
        pass

    inputs = make_inputs()
    expected = run(inputs, "cpp", softplus=False)["out"]
    given = {**inputs, "state": inputs["state"].clone(), "x": inputs["x"].as_subclass(Named)}
    assert torch.equal(state_update(**given).as_subclass(torch.Tensor), expected)
    given = {**inputs, "state": inputs["state"].clone(), "A": torch.nn.Parameter(inputs["A"])}
    with torch.no_grad():
        assert torch.equal(state_update(**given), expected)


def _in_a_child(queue):
    torch.set_num_threads(1)
    queue.put(run(make_inputs(), "cpp")["out"].sum().item())


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_forked_child_on_one_thread(threads):
    run(make_inputs(4, (500,), 256), "cpp")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue,))
    child.start()
    assert isinstance(queue.get(timeout=60), float)
    child.join(timeout=60)
    assert child.exitcode == 0
