"""Bad input ends with one message that names the argument."""

import pytest
import torch

from tests.transmamba_kernels.causal_conv1d.cases import make_inputs
from transmamba_kernels import causal_conv1d


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
        ({"weight": None}, TypeError, "weight must be a tensor, got NoneType"),
        ({"bias": 1.0}, TypeError, "bias must be a tensor or None, got float"),
        ({"x": torch.zeros(2, 20, 70, dtype=torch.int64)}, TypeError, "x must be float32.*got int64"),
        ({"x": torch.zeros(20, 70)}, ValueError, r"x must have shape \(batch, d_inner, length\), got \(20, 70\)"),
        ({"weight": torch.zeros(21, 4)}, ValueError, r"weight must have shape .* d_inner = 20 .*got \(21, 4\)"),
        ({"weight": torch.zeros(20, 0)}, ValueError, "weight must have shape .* width of at least 1"),
        ({"weight": torch.zeros(20, 1, 4)}, ValueError, "weight must have shape"),
        ({"bias": torch.zeros(1, 20)}, ValueError, "bias must have shape"),
        ({"initial_state": torch.zeros(2, 20, 4)}, ValueError, r"initial_state .* width - 1\) = \(2, 20, 3\), got"),
        ({"bias": torch.zeros(20, device="meta")}, ValueError, "bias must be on the device of x, cpu, got meta"),
        ({"activation": "relu"}, ValueError, "activation must be None or 'silu', got 'relu'"),
        ({"activation": True}, ValueError, "activation must be None or 'silu', got True"),
        ({"reverse": None}, TypeError, "reverse must be True or False"),
        ({"return_final_state": 1}, TypeError, "return_final_state must be True or False, got 1"),
        (
            {"backend": "cudnn"},
            ValueError,
            "backend must be one of 'cpp', 'cuda', 'triton', 'reference' or None, got 'cudnn'",
        ),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        causal_conv1d(**{**make_inputs(), **change})


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize(
    ("cu_seqlens", "error", "message"),
    [
        ([0, 30, 70], TypeError, "cu_seqlens must be a tensor or None, got list"),
        (torch.tensor([0.0, 70.0]), TypeError, "cu_seqlens must be int32 or int64, got float32"),
        (torch.tensor([False, True]), TypeError, "cu_seqlens must be int32 or int64, got bool"),
        (torch.tensor([[0, 70]]), ValueError, r"cu_seqlens must have shape \(sequences \+ 1,\).* got \(1, 2\)"),
        (torch.tensor([0]), ValueError, r"cu_seqlens must have shape .* got \(1,\)"),
        (
            torch.zeros(2, dtype=torch.int32, device="meta"),
            ValueError,
            "cu_seqlens must be on .* got meta",
        ),
        (torch.tensor([1, 30, 70]), ValueError, "cu_seqlens must start at 0, got 1"),
        (torch.tensor([0, 50, 30, 70]), ValueError, "cu_seqlens must not decrease, got 30 after 50"),
        (torch.tensor([0, 90, 70]), ValueError, "cu_seqlens must not decrease, got 70 after 90"),
        (torch.tensor([0, 30, 69]), ValueError, "cu_seqlens must end at the length 70, got 69"),
        (torch.tensor([0, 30, 71]), ValueError, "cu_seqlens must end at the length 70, got 71"),
    ],
    ids=str,
)
def test_bad_offsets(cu_seqlens, error, message, backend):
    inputs = make_inputs(1, without=("initial_state",))
    for grad in (False, True):
        inputs["x"].requires_grad_(grad)
        with pytest.raises(error, match=message):
            causal_conv1d(**inputs, cu_seqlens=cu_seqlens, backend=backend)


def test_packed_sequences_and_the_other_arguments():
    cu_seqlens = torch.tensor([0, 30, 70])
    with pytest.raises(ValueError, match="cu_seqlens needs a batch of 1, got 2"):
        causal_conv1d(**make_inputs(2), cu_seqlens=cu_seqlens)
    with pytest.raises(
        ValueError, match=r"initial_state .* \(sequences, d_inner, width - 1\) = \(2, 20, 3\), got \(1,"
    ):
        causal_conv1d(**make_inputs(1), cu_seqlens=cu_seqlens)


def test_a_backend_that_cannot_says_why():
    inputs = make_inputs()
    with pytest.raises(NotImplementedError, match="backend 'cpp' cannot run causal_conv1d here.*x is on meta"):
        causal_conv1d(**{k: t.to("meta") for k, t in inputs.items()}, backend="cpp")
    with pytest.raises(NotImplementedError, match="empty"):
        causal_conv1d(**make_inputs(length=0), backend="cpp")
