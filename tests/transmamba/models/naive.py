"""The scans of the students written out: one selective scan of the reference per direction, on permuted tokens."""

import torch
import torch.nn.functional as F

from transmamba_kernels import selective_scan


def walk(path, u, delta, A, B, C, D, delta_bias, permute_params=True):
    """Scan channel-first ``u`` along ``path``, a list of tokens, and put the result back."""
    path = torch.tensor(path)
    if permute_params:
        delta, B, C = (M[..., path] for M in (delta, B, C))
    y = selective_scan(u[..., path], delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True, backend="reference")
    return y[..., path.argsort()]


def causal_conv(x, conv):
    """A depthwise causal convolution with its activation, by torch."""
    return F.silu(conv(x)[..., : x.shape[-1]])


def mamba(x, z, conv1d, x_proj, dt_proj, A_log, D):
    """The gated scan of one direction, first to last; ``x``, ``z`` channel-first."""
    u = causal_conv(x, conv1d)
    n = A_log.shape[1]
    dt, B, C = x_proj(u.mT).split([dt_proj.in_features, n, n], dim=-1)
    delta = (dt @ dt_proj.weight.T).mT
    return walk(range(x.shape[-1]), u, delta, -A_log.exp(), B.mT, C.mT, D, dt_proj.bias) * F.silu(z)


def mlp(block, h):
    """What a block with an MLP adds behind its mixer."""
    return 0 if block.mlp is None else block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(h))))


def assert_same(model, actual, expected):
    """Compare two outputs and the gradients of all parameters that lead to them."""
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
    names, parameters = zip(*model.named_parameters(), strict=True)
    weights = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), parameters) for out in (actual, expected))
    for name, a, b in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def disturb(model):
    """Move every parameter and running statistic: fresh biases are 0 and fresh norms 1, and would prove nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
        for name, tensor in model.named_buffers():
            if "running" in name:
                tensor.add_(0.3 * torch.rand_like(tensor))
    return model
