"""Bad input ends with one message that names the argument."""

import pytest
import torch

from tests.transmamba_kernels.selective_scan.cases import make_inputs
from transmamba_kernels import selective_scan


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"u": [1.0]}, TypeError, "u must be a tensor, got list"),
        ({"D": 1.0}, TypeError, "D must be a tensor or None, got float"),
        ({"u": torch.zeros(2, 20, 70, dtype=torch.int64)}, TypeError, "u must be float32.*got int64"),
        ({"z": torch.zeros(2, 20, 70, dtype=torch.complex64)}, TypeError, "z must be float32.*got complex64"),
        ({"u": torch.zeros(20, 70)}, ValueError, r"u must have shape \(batch, d_inner, length\), got \(20, 70\)"),
        ({"delta": torch.zeros(2, 20, 71)}, ValueError, r"delta must have shape of u .* \(2, 20, 70\), got"),
        ({"A": torch.zeros(21, 5)}, ValueError, "A must have shape .* d_inner = 20"),
        ({"A": torch.zeros(20, 0)}, ValueError, "A must have shape"),
        ({"A": torch.zeros(20)}, ValueError, "A must have shape"),
        ({"B": torch.zeros(2, 6, 70)}, ValueError, "B must have shape"),
        ({"C": torch.zeros(2, 5, 69)}, ValueError, "C must have shape"),
        ({"C": torch.zeros(1, 5, 70)}, ValueError, "C must have shape"),
        ({"B": torch.zeros(2, 3, 5, 70)}, ValueError, "B has 3 groups, which must divide d_inner = 20"),
        (
            {"B": torch.zeros(2, 4, 5, 70), "C": torch.zeros(2, 2, 5, 70)},
            ValueError,
            "B and C must have as many groups.*4 and 2",
        ),
        ({"D": torch.zeros(1, 20)}, ValueError, "D must have shape"),
        ({"z": torch.zeros(2, 70, 20)}, ValueError, "z must have shape"),
        ({"delta_bias": torch.zeros(3, 20)}, ValueError, "delta_bias must have shape"),
        ({"initial_state": torch.zeros(2, 5, 20)}, ValueError, "initial_state must have shape"),
        ({"B": torch.zeros(2, 5, 70, device="meta")}, ValueError, "B must be on the device of u, cpu, got meta"),
        ({"delta_softplus": 1}, TypeError, "delta_softplus must be True or False, got 1"),
        ({"reverse": None}, TypeError, "reverse must be True or False"),
        ({"return_last_state": "yes"}, TypeError, "return_last_state must be True or False"),
        (
            {"backend": "cudnn"},
            ValueError,
            "backend must be one of 'cpp', 'cuda', 'triton', 'reference' or None, got 'cudnn'",
        ),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        selective_scan(**{**make_inputs(), **change})


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize(
    ("cu_seqlens", "error", "message"),
    [
        ([0, 30, 70], TypeError, "cu_seqlens must be a tensor or None, got list"),
        (torch.tensor([0.0, 70.0]), TypeError, "cu_seqlens must be int32 or int64, got float32"),
        (torch.tensor([[0, 70]]), ValueError, r"cu_seqlens must have shape \(sequences \+ 1,\).* got \(1, 2\)"),
        (torch.tensor([0]), ValueError, r"cu_seqlens must have shape .* got \(1,\)"),
        (
            torch.zeros(2, dtype=torch.int32, device="meta"),
            ValueError,
            "cu_seqlens must be on .* got meta",
        ),
        (torch.tensor([1, 30, 70]), ValueError, "cu_seqlens must start at 0, got 1"),
        (torch.tensor([0, 50, 30, 70]), ValueError, "cu_seqlens must not decrease, got 30 after 50"),
        (torch.tensor([0, 30, 69]), ValueError, "cu_seqlens must end at the length 70, got 69"),
    ],
    ids=str,
)
def test_bad_offsets(cu_seqlens, error, message, backend):
    inputs = make_inputs(1, without=("initial_state",))
    for grad in (False, True):
        inputs["u"].requires_grad_(grad)
        with pytest.raises(error, match=message):
            selective_scan(**inputs, cu_seqlens=cu_seqlens, backend=backend)


def test_packed_sequences_and_the_other_arguments():
    cu_seqlens = torch.tensor([0, 30, 70])
    with pytest.raises(ValueError, match="cu_seqlens needs a batch of 1, got 2"):
        selective_scan(**make_inputs(2), cu_seqlens=cu_seqlens)
    with pytest.raises(ValueError, match=r"initial_state .* \(sequences, d_inner, d_state\) = \(2, 20, 5\), got \(1,"):
        selective_scan(**make_inputs(1), cu_seqlens=cu_seqlens)


def test_a_backend_that_cannot_says_why():
    inputs = make_inputs(without=("initial_state",))
    with pytest.raises(NotImplementedError, match="backend 'cpp' cannot run selective_scan here.*A is complex"):
        selective_scan(**{**inputs, "A": inputs["A"].to(torch.complex64)}, backend="cpp")
    meta = {k: t if t is None else t.to("meta") for k, t in inputs.items()}
    with pytest.raises(NotImplementedError, match="u is on meta"):
        selective_scan(**meta, backend="cpp")
