"""The whole Mamba layer beside that of transformers, with the same weights: a sequence, a training step, one token."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from benchmarks.interleave import interleave
from benchmarks.rows import Row
from benchmarks.verify import ALLOWED, largest_error
from transmamba.layers import Mamba

OP, OURS = "mamba", "Mamba"
D_MODEL = 768
MAMBA_130M, SHORT = (1, 1024, D_MODEL), (1, 256, D_MODEL)
# Name, shape, target of the ratio. In training, transformers' loop is quadratic in the length: it is beside ours on
# short sequences only, and on long ones with mambapy's parallel scan in its place.
TRAINING = [("transformers", SHORT, None), ("transformers, mambapy", MAMBA_130M, 7.0)]
TOKENS = 20


def pair(peer: str) -> tuple[Mamba, nn.Module, object]:
    """Our layer, transformers' with its weights, and the latter's config."""
    transformers = pytest.importorskip("transformers", reason="pip install 'transformers>=5'")
    from transformers.models.mamba.modeling_mamba import MambaMixer

    if peer.endswith("mambapy"):
        pytest.importorskip("mambapy", reason="pip install --no-deps mambapy")
    ours = Mamba(D_MODEL)
    config = transformers.MambaConfig(hidden_size=D_MODEL, num_hidden_layers=1, use_mambapy=peer.endswith("mambapy"))
    theirs = MambaMixer(config, layer_idx=0)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, config


@torch.no_grad()
def run(layer: nn.Module, x: Tensor) -> Sequence[Tensor]:
    return [layer(x)]


def train(layer: nn.Module, x: Tensor) -> Sequence[Tensor]:
    """The output, and the gradients of the input and of every parameter."""
    x = x.detach().requires_grad_()
    out = layer(x)
    parameters = [parameter for _, parameter in sorted(layer.named_parameters())]
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *parameters])]


def compare(pass_: Callable[..., Sequence[Tensor]], peer, shape, benchmark, rounds) -> float:
    """Their seconds over ours, once both agree with our layer in float64."""
    ours, theirs, _ = pair(peer)
    x = torch.randn(shape)
    expected = pass_(copy.deepcopy(ours).double(), x.double())
    for name, layer in ((OURS, ours), (peer, theirs)):
        error = largest_error(pass_(layer, x), expected)
        assert error <= ALLOWED[torch.float32], f"{name} is WRONG: relative error {error:.1e}"
    calls = {OURS: lambda: pass_(ours, x), peer: lambda: pass_(theirs, x)}
    seconds = interleave(benchmark, calls, rounds)
    return seconds[peer] / seconds[OURS]


@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_forward(benchmark, measurements, rounds):
    value = compare(run, "transformers", MAMBA_130M, benchmark, rounds)
    measurements.add(Row(OP, str(MAMBA_130M), "forward", OURS, "transformers", value, target=4.5))


@pytest.mark.parametrize(("peer", "shape", "target"), TRAINING, ids=["loop", "mambapy"])
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_training(peer, shape, target, benchmark, measurements, rounds):
    value = compare(train, peer, shape, benchmark, rounds)
    measurements.add(Row(OP, str(shape), "training", OURS, peer, value, target=target))


@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_one_token(benchmark, measurements, rounds):
    peer = "transformers"
    ours, theirs, config = pair(peer)
    from transformers import DynamicCache

    prompt, token = torch.randn(1, 8, D_MODEL), torch.randn(1, 1, D_MODEL)
    cache, states = DynamicCache(config=config), ours.allocate_inference_cache(1, 0)

    @torch.no_grad()
    def step_ours() -> Tensor:
        return ours.step(token, *states)[0]

    @torch.no_grad()
    def step_theirs() -> Tensor:
        return theirs(token, cache=cache)

    with torch.no_grad():
        theirs(prompt, cache=cache)
        for t in range(prompt.shape[1]):
            ours.step(prompt[:, t : t + 1], *states)
    assert largest_error([step_theirs()], [step_ours().double()]) <= ALLOWED[torch.float32]

    def repeated(step: Callable[[], Tensor]) -> Callable[[], None]:
        def calls() -> None:
            for _ in range(TOKENS):
                step()

        return calls

    seconds = interleave(benchmark, {OURS: repeated(step_ours), peer: repeated(step_theirs)}, rounds)
    measurements.add(Row(OP, f"(1, 1, {D_MODEL})", "one token", OURS, peer, seconds[peer] / seconds[OURS]))
