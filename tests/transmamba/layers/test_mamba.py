"""Mamba: names and shapes of mamba_ssm, step against forward, and states that continue a sequence."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.tolerances import assert_close
from transmamba.layers import Mamba


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Mamba(12, d_state=5, d_conv=3, layer_idx=0).double()


def inference(offset=0):
    return SimpleNamespace(seqlen_offset=offset, key_value_memory_dict={})


def test_parameters_are_those_of_mamba_ssm():
    shapes = {name: tuple(p.shape) for name, p in Mamba(32, d_state=16, d_conv=4, expand=2).state_dict().items()}
    assert shapes == {
        "A_log": (64, 16),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (34, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }


def test_initial_step_size_lies_in_its_range():
    layer = Mamba(64, dt_min=1e-2, dt_max=5e-2)
    dt = F.softplus(layer.dt_proj.bias)
    assert dt.min() >= 0.999e-2
    assert dt.max() <= 5.001e-2
    assert torch.allclose(torch.exp(layer.A_log[0]), torch.arange(1.0, 17.0))


def test_forward_is_the_recurrence_written_out(layer):
    """An independent computation of the whole layer, one token after the other, from the paper's equations."""
    x = torch.randn(1, 6, 12, dtype=torch.double)
    u, z = (x[0] @ layer.in_proj.weight.T).split(24, dim=-1)
    padded = torch.cat([torch.zeros(2, 24, dtype=torch.double), u])
    h, outputs = torch.zeros(24, 5, dtype=torch.double), []
    for t in range(6):
        c = F.silu((padded[t : t + 3] * layer.conv1d.weight[:, 0].T).sum(0) + layer.conv1d.bias)
        dt, B, C = layer.x_proj(c).split([layer.dt_rank, 5, 5])
        dt = F.softplus(layer.dt_proj(dt))
        h = torch.exp(-dt[:, None] * torch.exp(layer.A_log)) * h + (dt * c)[:, None] * B
        outputs.append((h @ C + layer.D * c) * F.silu(z[t]))
    torch.testing.assert_close(layer(x)[0], torch.stack(outputs) @ layer.out_proj.weight.T)


def test_step_agrees_with_forward_token_by_token(layer):
    x = torch.randn(2, 9, 12, dtype=torch.double)
    expected = layer(x)
    conv_state, ssm_state = layer.allocate_inference_cache(2, 9)
    for t in range(9):
        out, conv, ssm = layer.step(x[:, t : t + 1], conv_state, ssm_state)
        assert conv is conv_state
        assert ssm is ssm_state
        torch.testing.assert_close(out[:, 0], expected[:, t])


def test_steps_in_sixteen_bits_stay_near_the_scan():
    torch.manual_seed(0)
    layer = Mamba(12, d_state=5, d_conv=3, dtype=torch.bfloat16)
    x = torch.randn(2, 9, 12, dtype=torch.bfloat16)
    conv_state, _ = layer.allocate_inference_cache(2, 9)
    ssm_state = layer.allocate_inference_cache(2, 9, torch.float32)[1]
    outputs = [layer.step(x[:, t : t + 1], conv_state, ssm_state)[0] for t in range(9)]
    assert not outputs[0].requires_grad
    assert outputs[0].dtype == torch.bfloat16
    with torch.no_grad():
        assert_close(torch.cat(outputs, dim=1), layer(x).double(), torch.bfloat16)


@pytest.mark.parametrize("cuts", [[4, 1, 1, 3], [1, 2, 6], [2, 7]])
def test_prefill_steps_and_chunks_continue_one_sequence(layer, cuts):
    x = torch.randn(2, 9, 12, dtype=torch.double)
    params, outputs = inference(), []
    for piece in x.split(cuts, dim=1):
        outputs.append(layer(piece, inference_params=params))
        params.seqlen_offset += piece.shape[1]
    torch.testing.assert_close(torch.cat(outputs, dim=1), layer(x))


def test_a_new_prompt_forgets_the_old_states(layer):
    x, params = torch.randn(2, 4, 12, dtype=torch.double), inference()
    first = layer(x, inference_params=params)
    torch.testing.assert_close(layer(x, inference_params=params), first)


def test_bad_input(layer):
    with pytest.raises(ValueError, match=r"d_model\)|, 12\), got \(2, 9, 11\)"):
        layer(torch.randn(2, 9, 11, dtype=torch.double))
    with pytest.raises(ValueError, match="one token"):
        layer.step(torch.randn(2, 2, 12, dtype=torch.double), *layer.allocate_inference_cache(2, 9))
    params = inference()
    layer(torch.randn(2, 3, 12, dtype=torch.double), inference_params=params)
    with pytest.raises(ValueError, match="batch 3"):
        layer(torch.randn(3, 3, 12, dtype=torch.double), inference_params=params)
    with pytest.raises(ValueError, match="layer_idx"):
        Mamba(8)(torch.randn(1, 2, 8), inference_params=inference())
    for wrong in ({"d_state": 0}, {"dt_rank": "big"}, {"dt_min": 0.2}, {"dt_init": "zeros"}, {"expand": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Mamba(8, **wrong)
    with pytest.raises(TypeError, match="d_model"):
        Mamba(8.0)
