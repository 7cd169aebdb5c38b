"""CrossMamba: the gate, padding, and what each mode is, said in another way."""

import pytest
import torch

from transmamba.layers import CrossMamba
from transmamba.layers.cross_mamba import MODES
from transmamba_kernels import selective_scan

CASES = [(mode, False) for mode in MODES] + [("query_pool", True)]


def build(mode, text_delta=False, **options):
    torch.manual_seed(0)
    layer = CrossMamba(8, 6, mode, text_delta, d_state=3, **options).double()
    torch.nn.init.uniform_(layer.gate, 0.5, 1.0)
    return layer


def tokens(*shape):
    return torch.randn(*shape, dtype=torch.double)


@pytest.mark.parametrize(("mode", "text_delta"), CASES)
def test_padding_leaves_the_output_alone_and_everything_learns(mode, text_delta):
    layer, x, text = build(mode, text_delta), tokens(2, 5, 8), tokens(2, 4, 6)
    expected = layer(x, text)
    padded = torch.cat([tokens(2, 2, 6), text, tokens(2, 1, 6)], dim=1)
    mask = torch.tensor([False, False, True, True, True, True, False]).expand(2, -1)
    torch.testing.assert_close(layer(x, padded, mask), expected)
    out, (merged,) = layer(x, padded, mask, return_directions=True)
    assert torch.equal(out, merged)
    assert (layer(x, text + tokens(4, 6)) - expected).abs().max() > 1e-5
    expected.square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("mode", MODES)
def test_a_new_layer_adds_nothing(mode):
    layer = CrossMamba(8, 6, mode)
    assert not layer(torch.randn(2, 5, 8), torch.randn(2, 4, 6)).any()


def test_one_word_is_pooled_and_attended_alike():
    attended, pooled = build("query_attn"), build("query_pool")
    pooled.load_state_dict(attended.state_dict(), strict=False)
    x, word = tokens(2, 5, 8), tokens(2, 1, 6)
    torch.testing.assert_close(attended(x, word), pooled(x, word))


def test_started_by_a_text_is_the_scan_of_both_joined():
    layer = build("state", d_conv=1, bidirectional=False)
    x, text = tokens(2, 5, 8), tokens(2, 4, 6)
    inner, z = layer.in_proj(x).chunk(2, dim=-1)
    joined = torch.cat([layer.text_proj(layer.text_norm(text)), inner], dim=1)
    y = selective_scan(**layer._scanned(joined), delta_softplus=True).transpose(1, 2)[:, 4:]
    expected = layer.gate * layer.out_proj(y * torch.nn.functional.silu(z))
    torch.testing.assert_close(layer(x, text), expected)


def test_read_text_is_one_vector_read_by_every_token():
    layer, x, text = build("kv", bidirectional=False), tokens(2, 5, 8), tokens(2, 4, 6)
    inner, z = layer.in_proj(x).chunk(2, dim=-1)
    scanned = layer._scanned(layer.text_proj(layer.text_norm(text)))
    _, state = selective_scan(**scanned, delta_softplus=True, return_last_state=True)
    y = torch.einsum("ben,bln->ble", state, layer.C_proj(inner))
    torch.testing.assert_close(layer(x, text), layer.gate * layer.out_proj(y * torch.nn.functional.silu(z)))


def test_bad_arguments():
    with pytest.raises(ValueError, match="mode must be one of query_pool, query_attn, state, kv, got 'query'"):
        CrossMamba(8, 6, "query")
    with pytest.raises(ValueError, match="text_delta must be False with mode 'kv'"):
        CrossMamba(8, 6, "kv", text_delta=True)
    layer = CrossMamba(8, 6)
    with pytest.raises(ValueError, match=r"text must have shape \(batch, words, d_text\) = \(2, words, 6\), got"):
        layer(torch.randn(2, 5, 8), torch.randn(2, 4, 5))
    with pytest.raises(ValueError, match="mask must have shape"):
        layer(torch.randn(2, 5, 8), torch.randn(2, 4, 6), torch.ones(2, 3, dtype=torch.bool))
