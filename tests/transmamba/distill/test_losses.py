"""The formulas of the losses on fixed tensors, and where their gradients go."""

import math

import pytest
import torch
import torch.nn.functional as F

from transmamba.distill.losses import (
    adaptive_weights,
    channel_cross_entropy,
    depth_weights,
    direction_loss,
    kd_loss,
    learned_loss,
    mean_cosine,
    official_loss,
    rescale,
)


def test_mean_cosine_of_known_vectors():
    student = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
    teacher = torch.tensor([[[2.0, 0.0], [5.0, 0.0]]])
    assert mean_cosine(student, teacher).item() == pytest.approx((1 + 0.6) / 2)
    both = mean_cosine(student.flip(1), teacher.flip(1))
    assert both.item() == pytest.approx(0.8), "reversing both sequences changes nothing"


def test_adaptive_weights_formula():
    c = torch.tensor([0.9, 0.5, 0.3, 0.1], dtype=torch.double)
    expected = [0.45 / 0.9, 0.45 / 0.5, 0.45 / 0.3, 0.45 / 0.1]
    torch.testing.assert_close(adaptive_weights(c), torch.tensor(expected, dtype=torch.double))
    assert rescale(adaptive_weights(c)).mean().item() == pytest.approx(1.0)


def test_adaptive_weights_are_clipped_and_floored():
    c = torch.tensor([0.9, -0.8, 0.001, 0.5])
    weights = adaptive_weights(c, floor=0.05, clip=(0.2, 5.0))
    mean = c.mean().item()
    assert weights[1] == weights[2] == pytest.approx(mean / 0.05)
    assert weights[0] == pytest.approx(0.2), "0.15 / 0.9 is below the clip"
    assert (adaptive_weights(torch.full((3,), -0.5)) == 0.2).all(), "a negative mean must not turn the sign"
    assert adaptive_weights(torch.tensor([1.0, 0.0]), clip=(0.2, 5.0))[1] == 5.0


def test_detached_weights_give_the_stated_gradient():
    """dL/dc_i = -w_i / L, as if the weights were constants; method: -2/-4/-6/-18 in proportion, never positive."""
    c = torch.tensor([0.9, 0.5, 0.3, 0.1], dtype=torch.double, requires_grad=True)
    weights = adaptive_weights(c, floor=1e-6, clip=(1e-6, 1e6))
    assert not weights.requires_grad
    direction_loss(c, weights).backward()
    torch.testing.assert_close(c.grad, -weights / 4)
    assert (c.grad < 0).all()


def test_gradient_through_the_weights_pushes_aligned_layers_away():
    c = torch.tensor([0.9, 0.5, 0.3, 0.1], dtype=torch.double, requires_grad=True)
    direction_loss(c, adaptive_weights(c, floor=1e-6, clip=(1e-6, 1e6), detach=False)).backward()
    assert c.grad[0] > 0
    assert c.grad[3] < 0


def test_direction_loss_is_the_weighted_mean():
    c, w = torch.tensor([0.5, 0.0]), torch.tensor([2.0, 1.0])
    assert direction_loss(c, w).item() == pytest.approx((2 * 0.5 + 1 * 1) / 2)
    with pytest.raises(ValueError, match=r"\(2,\), \(3,\)"):
        direction_loss(c, torch.ones(3))


def test_depth_weights():
    assert depth_weights(3, torch.zeros(1)).tolist() == pytest.approx([0.5, 1.0, 1.5])


def test_learned_loss_is_kendalls_over_the_mean_weight():
    c = torch.tensor([0.9, 0.2], dtype=torch.double, requires_grad=True)
    s = torch.tensor([0.3, -0.5], dtype=torch.double, requires_grad=True)
    loss = learned_loss(c, s)
    w = [math.exp(-0.3), math.exp(0.5)]
    mean = sum(w) / 2
    assert loss.item() == pytest.approx(((w[0] * 0.1 + 0.3) + (w[1] * 0.8 - 0.5)) / mean / 2)
    loss.backward()
    assert c.grad.tolist() == pytest.approx([-w[0] / mean / 2, -w[1] / mean / 2])
    assert s.grad.tolist() == pytest.approx([(1 - w[0] * 0.1) / mean / 2, (1 - w[1] * 0.8) / mean / 2])
    at_rest = torch.tensor([0.1, 0.8], dtype=torch.double).log().requires_grad_()
    learned_loss(c.detach(), at_rest).backward()
    assert at_rest.grad.abs().max() < 1e-12, "the least loss has w = 1 / (1 - c)"


def test_kd_loss_is_hintons():
    student, teacher = torch.tensor([[1.0, 2.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 3.0, 1.0]])
    p, q = F.softmax(teacher / 2, -1), F.softmax(student / 2, -1)
    loss = kd_loss(student, teacher.requires_grad_(), temperature=2.0)
    assert loss.item() == pytest.approx(4 * (p * (p / q).log()).sum().item(), rel=1e-5)
    loss.backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, 2 * (q - p).detach())
    assert kd_loss(student, student).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match=r"student \(1, 3\) and teacher \(1, 4\)"):
        kd_loss(student, torch.zeros(1, 4))


def test_official_loss_formula():
    def cross_entropy(f_t, f_s):
        total = 0.0
        for row_t, row_s in zip(f_t.flatten(0, 1).tolist(), f_s.flatten(0, 1).tolist(), strict=True):
            exp_t, exp_s = [math.exp(v / 2) for v in row_t], [math.exp(v / 2) for v in row_s]
            total -= sum(t / sum(exp_t) * math.log(s / sum(exp_s)) for t, s in zip(exp_t, exp_s, strict=True))
        return total / (f_t.shape[0] * f_t.shape[1])

    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 4, dtype=torch.double)
    features = [torch.randn(2, 3, 4, dtype=torch.double) for _ in range(3)]
    assert channel_cross_entropy(features[0], teacher).item() == pytest.approx(cross_entropy(teacher, features[0]))
    expected = 120 * cross_entropy(teacher, features[2])
    expected += sum((i + 1) * cross_entropy(teacher, f) for i, f in enumerate(features))
    assert official_loss(features, teacher).item() == pytest.approx(expected)


def test_features_of_16_bits_are_compared_in_32():
    torch.manual_seed(0)
    a = torch.randn(2, 3, 64).bfloat16()
    b = (a + 0.01 * torch.randn(2, 3, 64)).bfloat16()
    exact = F.cosine_similarity(a.double(), b.double(), dim=-1).mean()
    assert (1 - mean_cosine(a, b)).item() == pytest.approx((1 - exact).item(), rel=0.01)
    assert kd_loss(a[0], b[0]).dtype == channel_cross_entropy(a, b).dtype == torch.float32
