"""BiMamba against a composition that flips, and its direction-resolved outputs."""

import pytest
import torch

from transmamba.layers import BiMamba, Mamba

SHARED = ("in_proj.weight", "out_proj.weight")
BACKWARD = {"A_log": "A_b_log", "D": "D_b"}


def one_direction(layer, suffix):
    """A plain Mamba holding the parameters of one of the layer's directions."""
    mamba = Mamba(layer.d_model, layer.d_state, layer.d_conv).double()
    state = {}
    for name in mamba.state_dict():
        module, _, tensor = name.partition(".")
        if name in SHARED or not suffix:
            source = name
        else:
            source = BACKWARD.get(name) or f"{module}_b.{tensor}"
        state[name] = layer.state_dict()[source]
    mamba.load_state_dict(state)
    return mamba


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = BiMamba(10, d_state=4, d_conv=3).double()
    with torch.no_grad():
        for p in (layer.A_b_log, layer.D_b, layer.D):
            p.add_(torch.rand_like(p))
    return layer


@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_equals_two_mambas_and_a_flip(layer, divide, length):
    layer.if_divide_out = divide
    x = torch.randn(2, length, 10, dtype=torch.double)
    forward = one_direction(layer, "")(x)
    backward = one_direction(layer, "_b")(x.flip(1)).flip(1)
    expected = (forward + backward) / (2 if divide else 1)
    torch.testing.assert_close(layer(x), expected)
    out, (out_forward, out_backward) = layer(x, return_directions=True)
    factor = 1 if divide else 2
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(out_forward, factor * forward)
    torch.testing.assert_close(out_backward, factor * backward)


def test_gradients_agree_with_and_without_directions(layer):
    x = torch.randn(2, 5, 10, dtype=torch.double)
    layer(x).square().sum().backward()
    plain = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    layer(x, return_directions=True)[0].square().sum().backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(p.grad, plain[name])
        assert p.grad.abs().sum() > 0, name


def test_parameters_are_those_of_the_published_vim():
    shapes = {name: tuple(p.shape) for name, p in BiMamba(192).state_dict().items()}
    assert shapes == {
        "A_log": (384, 16),
        "D": (384,),
        "A_b_log": (384, 16),
        "D_b": (384,),
        "in_proj.weight": (768, 192),
        "conv1d.weight": (384, 1, 4),
        "conv1d.bias": (384,),
        "x_proj.weight": (44, 384),
        "dt_proj.weight": (384, 12),
        "dt_proj.bias": (384,),
        "conv1d_b.weight": (384, 1, 4),
        "conv1d_b.bias": (384,),
        "x_proj_b.weight": (44, 384),
        "dt_proj_b.weight": (384, 12),
        "dt_proj_b.bias": (384,),
        "out_proj.weight": (192, 384),
    }


@pytest.mark.parametrize("bias", [False, True])
def test_padding_at_either_end_changes_nothing(bias):
    torch.manual_seed(0)
    layer = BiMamba(10, d_state=4, d_conv=3, bias=bias).double()
    x = torch.randn(3, 7, 10, dtype=torch.double, requires_grad=True)
    bounds = ((0, 7), (0, 4), (3, 5))
    mask = torch.stack([(torch.arange(7) >= first) & (torch.arange(7) < end) for first, end in bounds])
    out, outputs = layer(x, mask, return_directions=True)
    torch.testing.assert_close(layer(x, mask)[mask], out[mask])
    alone = [layer(x[i : i + 1, first:end], return_directions=True) for i, (first, end) in enumerate(bounds)]
    for padded, rows in zip((out, *outputs), zip(*((o, *each) for o, each in alone), strict=True), strict=True):
        torch.testing.assert_close(padded[mask], torch.cat([row[0] for row in rows]))
    inputs = (x, *layer.parameters())
    expected = torch.autograd.grad(sum(o.square().sum() for o, _ in alone), inputs)
    for actual, wanted in zip(torch.autograd.grad(out[mask].square().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_bad_mask(layer):
    x = torch.randn(2, 3, 10, dtype=torch.double)
    with pytest.raises(TypeError, match="mask must be a tensor of bool"):
        layer(x, torch.ones(2, 3))
    with pytest.raises(ValueError, match="mask must have shape"):
        layer(x, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="row 1 is all False"):
        layer(x, torch.tensor([[True] * 3, [False] * 3]))


def test_bad_input(layer):
    with pytest.raises(ValueError, match="hidden_states"):
        layer(torch.randn(2, 10, dtype=torch.double))
    with pytest.raises(TypeError, match="hidden_states"):
        layer([1.0])
    with pytest.raises(ValueError, match="d_conv"):
        BiMamba(8, d_conv=0)
