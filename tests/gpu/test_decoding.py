"""The decoding step of a layer, a language model, and the two ops of a step in a CUDA graph."""

import copy

import pytest
import torch

from tests.gpu.conftest import TARGETS
from tests.tolerances import assert_close
from tests.transmamba_kernels.conv_state_update import cases as conv
from tests.transmamba_kernels.sequences import on
from tests.transmamba_kernels.state_update import cases as ssm
from transmamba.layers.mamba import Mamba
from transmamba.models.language import MambaLM, MambaLMConfig
from transmamba_kernels import backends, conv_state_update, state_update

pytestmark = pytest.mark.usefixtures("poison")
ON_A_GPU = [name for name, target in TARGETS.items() if target.device == "cuda"]


@pytest.mark.parametrize("d_state", [3, 16])
def test_a_layer_steps(target, d_state, monkeypatch):
    monkeypatch.setattr(backends, "COMPILED", tuple(b for b in backends.COMPILED if b.name == target.backend))
    oracle = Mamba(12, d_state=d_state, dtype=torch.float64)
    layer = copy.deepcopy(oracle).to(target.device, torch.float32)
    expected = oracle.allocate_inference_cache(2, 0)
    actual = layer.allocate_inference_cache(2, 0)
    for token in torch.randn(4, 2, 1, 12, dtype=torch.float64):
        wanted, *_ = oracle.step(token, *expected)
        found, *_ = layer.step(token.to(target.device, torch.float32), *actual)
        assert_close(found.cpu(), wanted, torch.float32, "out")
    for found, wanted in zip(actual, expected, strict=True):
        assert_close(found.cpu(), wanted, torch.float32, "state")


def test_a_model_generates(target, monkeypatch):
    oracle = MambaLM(MambaLMConfig(vocab_size=40, d_model=12, depth=2)).double()
    model = copy.deepcopy(oracle).to(target.device, torch.float32)
    prompt = torch.randint(40, (2, 5))
    expected = oracle.generate(prompt, 4)
    monkeypatch.setattr(backends, "COMPILED", tuple(b for b in backends.COMPILED if b.name == target.backend))
    assert torch.equal(model.generate(prompt.to(target.device), 4).cpu(), expected)


@pytest.mark.parametrize("target", ON_A_GPU, indirect=True)
@pytest.mark.parametrize(
    ("op", "cases", "state", "indices"),
    [
        (state_update, ssm, "state", "state_batch_indices"),
        (conv_state_update, conv, "conv_state", "conv_state_indices"),
    ],
    ids=["state_update", "conv_state_update"],
)
def test_a_graph_follows_the_indices(target, op, cases, state, indices):
    inputs = {name: None if t is None else on("cuda", t) for name, t in cases.make_inputs(3, rows=7).items()}

    def step(given):
        return op(**given, backend=target.backend)

    step({**inputs, state: inputs[state].clone()})  # compiled and loaded outside of the graph
    torch.cuda.synchronize()
    captured = {**inputs, state: inputs[state].clone()}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step(captured)
    for rows in ([1, 5, 0], [6, 2, 3]):
        captured[state].copy_(inputs[state])
        captured[indices].copy_(torch.tensor(rows))
        graph.replay()
        eager = {**inputs, state: inputs[state].clone(), indices: torch.tensor(rows, device="cuda")}
        assert torch.equal(step(eager), out)
        assert torch.equal(eager[state], captured[state])
