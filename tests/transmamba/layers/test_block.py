"""The block, its direction features, the norms and the patches."""

import pytest
import torch
import torch.nn.functional as F

from transmamba.layers import BiMamba, PatchEmbed, RMSNorm, TransMambaBlock, create_norm


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("d_hidden", [0, 20])
@pytest.mark.parametrize("divide", [True, False])
def test_mean_of_direction_features_is_the_output(norm, d_hidden, divide):
    torch.manual_seed(0)
    block = TransMambaBlock(BiMamba(10, 4, if_divide_out=divide), d_hidden, norm).double()
    x = torch.randn(2, 6, 10, dtype=torch.double)
    out, features = block(x, return_directions=True)
    assert len(features) == len(block.directions) == 2
    torch.testing.assert_close(torch.stack(features).mean(0), out, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(block(x), out, rtol=1e-13, atol=1e-13)
    assert not torch.allclose(features[0], features[1])


def test_block_is_prenorm_mixer_then_mlp():
    torch.manual_seed(0)
    block = TransMambaBlock(BiMamba(10, 4), 20).double()
    x = torch.randn(2, 6, 10, dtype=torch.double)
    h = x + block.mixer(block.norm(x))
    expected = h + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(h))))
    torch.testing.assert_close(block(x), expected)


def test_forward_feature_does_not_see_later_tokens_in_its_scan():
    """Without an MLP the forward direction's feature is causal and the backward one's anti-causal."""
    torch.manual_seed(0)
    block = TransMambaBlock(BiMamba(8, 3)).double()
    x = torch.randn(1, 7, 8, dtype=torch.double, requires_grad=True)
    _, (forward, backward) = block(x, return_directions=True)
    (seen,) = torch.autograd.grad(forward[0, 3].sum(), x, retain_graph=True)
    assert seen[0, :4].abs().sum() > 0
    assert seen[0, 4:].abs().sum() == 0
    (seen,) = torch.autograd.grad(backward[0, 3].sum(), x)
    assert seen[0, 3:].abs().sum() > 0
    assert seen[0, :3].abs().sum() == 0


def test_residual_stream_stays_float32_with_16_bit_weights():
    block = TransMambaBlock(BiMamba(8, 3), 16).bfloat16()
    assert block(torch.randn(1, 4, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_rms_norm_is_its_equation():
    norm = RMSNorm(6, eps=1e-5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(6))
    x = torch.randn(3, 6, dtype=torch.double)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_patches_are_in_raster_order():
    embed = PatchEmbed(6, 3, 1, 9).double()
    with torch.no_grad():
        embed.proj.weight.copy_(torch.eye(9).view(9, 1, 3, 3))
        embed.proj.bias.zero_()
    image = torch.arange(36, dtype=torch.double).view(1, 1, 6, 6)
    assert embed.grid == (2, 2)
    assert torch.equal(embed(image)[0, 1], image[0, 0, :3, 3:].flatten())


def test_overlapping_patches():
    assert PatchEmbed(224, 16, 3, 8, stride=8).grid == (27, 27)


def test_bad_input():
    with pytest.raises(ValueError, match=r"norm must be 'rms' or 'layer', got 'batch'"):
        create_norm("batch", 8)
    with pytest.raises(ValueError, match="patch_size"):
        PatchEmbed(8, 9, 1, 4)
    with pytest.raises(ValueError, match=r"\(batch, 1, 8, 8\), got \(2, 3, 8, 8\)"):
        PatchEmbed(8, 2, 1, 4)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="d_hidden"):
        TransMambaBlock(BiMamba(8), -1)
