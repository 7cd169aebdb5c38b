"""The distiller: its loss put together by hand, its weights over time, its gradients, its options."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transmamba.config import OptimConfig
from transmamba.distill import DistillConfig, Distiller, Taps, subclone
from transmamba.distill.losses import adaptive_weights, kd_loss, mean_cosine, official_loss, rescale
from transmamba.optim import create_optimizer

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def cosines(distiller, images):
    """Mean cosine per direction and layer, computed outside the distiller."""
    taps, seen = Taps(), distiller.teacher(images)
    distiller.student.forward_features(images, taps)
    table = []
    for k in range(2):
        row = []
        for i, t in enumerate(distiller.layer_map):
            target = distiller.calibration.teacher(seen.features[t], seen.grid, distiller.student.grid)
            row.append(mean_cosine(distiller.calibration(taps.directions[i][k], i), target))
        table.append(torch.stack(row))
    return torch.stack(table)


def test_total_is_the_formula(make_teacher, make_student, images):
    distiller = Distiller(make_student(), make_teacher(), DistillConfig(ema=0.0))
    c = cosines(distiller, images)
    total, metrics = distiller.loss(images, LABELS)
    logits = distiller.student(images)
    task = F.cross_entropy(logits, LABELS)
    feature = sum((rescale(adaptive_weights(c[k])) * (1 - c[k])).sum() / 3 for k in range(2)) / 2
    kd = kd_loss(logits, distiller.teacher(images).logits, 2.0)
    torch.testing.assert_close(total, 0.8 * task + 0.2 * feature + 0.5 * kd)
    for name, value in {"task": task, "feature": feature, "kd": kd, "total": total, "logits": logits}.items():
        torch.testing.assert_close(metrics[name], value.detach(), rtol=1e-4, atol=1e-5)
        assert not metrics[name].requires_grad
    assert metrics["cosine_forward"].item() == pytest.approx(c[0].mean().item(), rel=1e-4)
    assert metrics["cosine_backward"].item() == pytest.approx(c[1].mean().item(), rel=1e-4)


def test_weights_follow_an_exponential_mean_in_train_mode_only(make_teacher, make_student, images):
    distiller = Distiller(make_student(), make_teacher(), DistillConfig(ema=0.9))
    expected = 0.9 * torch.ones(2, 3) + 0.1 * torch.stack([adaptive_weights(c) for c in cosines(distiller, images)])
    distiller.loss(images, LABELS)
    torch.testing.assert_close(distiller.layer_weights, expected.detach())
    distiller.eval()
    distiller.loss(images, LABELS)
    torch.testing.assert_close(distiller.layer_weights, expected.detach())
    assert "layer_weights" in distiller.state_dict()


def test_gradients_reach_student_and_calibration_never_the_teacher(make_teacher, make_student, images):
    distiller = Distiller(make_student(), make_teacher())
    distiller.loss(images, LABELS)[0].backward()
    assert [n for n, p in distiller.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [n for n, p in distiller.student.named_parameters() if not p.grad.abs().sum() > 0] == []
    assert [n for n, p in distiller.calibration.named_parameters() if not p.grad.abs().sum() > 0] == []
    assert all(p.grad is None for p in distiller.teacher.parameters())


def test_teacher_is_in_no_list_but_moves_along(make_teacher, make_student, images):
    teacher, student = make_teacher(), make_student()
    distiller = Distiller(student, teacher)
    own = {id(p) for p in student.parameters()} | {id(p) for p in distiller.calibration.parameters()}
    assert {id(p) for p in distiller.parameters()} == own
    assert all(name.split(".")[0] in ("student", "calibration", "layer_weights") for name in distiller.state_dict())
    distiller.double()
    assert next(teacher.parameters()).dtype == torch.double
    assert distiller.loss(images.double(), LABELS)[0].dtype == torch.double


def test_state_restores_the_loss(make_teacher, make_student, images):
    teacher = make_teacher()
    first = Distiller(make_student(), teacher, channels=list(range(15, -1, -1)))
    for _ in range(3):
        first.loss(images, LABELS)
    second = Distiller(make_student(seed=9), teacher)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.loss(images, LABELS)[0], second.loss(images, LABELS)[0])


@pytest.mark.parametrize("weighting", ["uniform", "depth"])
def test_fixed_weightings(make_teacher, make_student, images, weighting):
    distiller = Distiller(make_student(), make_teacher(), DistillConfig(weighting=weighting))
    c = cosines(distiller, images)
    weights = torch.ones(3) if weighting == "uniform" else torch.tensor([0.5, 1.0, 1.5])
    feature = distiller.loss(images, LABELS)[1]["feature"]
    torch.testing.assert_close(feature, (weights * (1 - c)).mean().detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(distiller.layer_weights, torch.ones(2, 3))


def test_learned_weights_are_learned_and_do_not_decay(make_teacher, make_student, images):
    config = DistillConfig(weighting="learned", alpha=1.0, beta=0.0, kappa=0.0)
    distiller = Distiller(make_student(), make_teacher(), config)
    c = cosines(distiller, images)
    loss, metrics = distiller.loss(images, LABELS)
    torch.testing.assert_close(loss, (1 - c).mean(), rtol=1e-4, atol=1e-5)
    assert "cosine_backward" in metrics
    loss.backward()
    torch.testing.assert_close(distiller.log_variance.grad, c.detach() / 6, rtol=1e-4, atol=1e-6)
    free = create_optimizer(distiller, OptimConfig(weight_decay=0.1)).param_groups[1]
    assert any(p is distiller.log_variance for p in free["params"])
    assert free["weight_decay"] == 0
    assert "log_variance" in distiller.state_dict()
    assert Distiller(make_student(), make_teacher()).log_variance is None


def test_official_weighting(make_teacher, make_student, images):
    config = DistillConfig(weighting="official", calibration="linear")
    distiller = Distiller(make_student(), make_teacher(), config)
    assert distiller.layer_map == [2, 2, 2]
    total, metrics = distiller.loss(images, LABELS)
    taps, seen = Taps(directions=False), distiller.teacher(images)
    logits = distiller.student.head(distiller.student.forward_features(images, taps))
    features = [distiller.calibration(taps.merged[i], i) for i in range(3)]
    target = distiller.calibration.teacher(seen.features[2], seen.grid, (4, 4))
    torch.testing.assert_close(total, F.cross_entropy(logits, LABELS) + official_loss(features, target))
    assert "cosine_merged" in metrics


@pytest.mark.parametrize(
    ("directions", "names"), [("both", ["forward", "backward"]), ("forward", ["forward"]), ("merged", ["merged"])]
)
def test_directions(make_teacher, make_student, images, directions, names):
    distiller = Distiller(make_student(), make_teacher(), DistillConfig(directions=directions))
    _, metrics = distiller.loss(images, LABELS)
    assert [name for name in metrics if name.startswith("cosine_")] == [f"cosine_{name}" for name in names]
    assert distiller.layer_weights.shape == (len(names), 3)


def test_non_detached_weights_change_the_gradient_and_not_the_loss(make_teacher, make_student, images):
    grads, losses = [], []
    for detach in (True, False):
        config = DistillConfig(detach=detach, ema=0.0, alpha=1.0, beta=0.0, kappa=0.0)
        distiller = Distiller(make_student(), make_teacher(), config)
        # One layer far from the teacher: with equal cosines the weights have no gradient to give.
        torch.manual_seed(3)
        nn.init.normal_(distiller.calibration.maps[1][3].weight, std=0.1)
        loss, _ = distiller.loss(images, LABELS)
        loss.backward()
        losses.append(loss.item())
        grads.append(distiller.student.layers[0].mixer.in_proj.weight.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert (grads[0] - grads[1]).norm() > 0.1 * grads[0].norm()


def test_alpha_decays_over_the_end_of_the_training(make_teacher, make_student, images):
    distiller = Distiller(make_student(), make_teacher(), DistillConfig(alpha_decay=0.2, weighting="uniform"))
    totals = {p: distiller.loss(images, LABELS, p)[0].item() for p in (0.0, 0.8, 0.9, 1.0)}
    _, metrics = distiller.loss(images, LABELS, 0.0)
    rest = (0.8 * metrics["task"] + 0.5 * metrics["kd"]).item()
    assert totals[0.8] == pytest.approx(totals[0.0])
    assert totals[1.0] == pytest.approx(rest)
    assert totals[0.9] == pytest.approx((totals[0.8] + rest) / 2)


def test_the_loss_in_bfloat16_is_close_and_learns(make_teacher, make_student, images):
    config = DistillConfig(weighting="uniform")
    distiller = Distiller(make_student(), make_teacher(), config)
    full = distiller.loss(images, LABELS)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = distiller.loss(images, LABELS)
    assert metrics["logits"].dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(full.item(), rel=0.05)
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in distiller.parameters())


def test_terms_with_zero_weight_are_not_computed(make_teacher, make_student, images):
    distiller = Distiller(make_student(num_classes=7), make_teacher(), DistillConfig(alpha=0, beta=1, kappa=0))
    hook = distiller.teacher.register_forward_pre_hook(lambda *_: pytest.fail("the teacher was asked for nothing"))
    total, metrics = distiller.loss(images, LABELS)
    hook.remove()
    assert total.item() == metrics["task"].item()
    features_only = Distiller(make_student(num_classes=7), make_teacher(), DistillConfig(alpha=1, beta=0, kappa=0))
    assert features_only.loss(images, None)[0].item() > 0


@pytest.mark.parametrize("family", ["ViT", "DeiT"])
@pytest.mark.parametrize("calibration", ["pad", "linear", "mlp"])
@pytest.mark.parametrize(
    "shape",
    [
        {"d_model": 12, "depth": 2},
        {"d_model": 24, "depth": 5, "patch_size": 4, "class_token": "head"},
        {"mlp_ratio": 0.0, "norm": "rms", "class_token": "none", "image_size": 8, "patch_size": 3, "stride": 1},
    ],
)
def test_mismatched_shapes_learn(make_teacher, make_student, images, family, calibration, shape):
    teacher, student = make_teacher(family), make_student(**shape)
    report = subclone(student, teacher, images=[images])
    distiller = Distiller(student, teacher, DistillConfig(calibration=calibration), channels=report.channels)
    optimizer = torch.optim.Adam(distiller.parameters(), 3e-3)
    losses = []
    for _ in range(4):
        loss, _ = distiller.loss(images, LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_calibration_starts_close_to_the_teacher_where_channels_are_known(make_teacher, make_student, images):
    teacher, student = make_teacher(), make_student(d_model=8, mlp_ratio=2.0)
    report = subclone(student, teacher, images=[images])
    with_channels = Distiller(student, teacher, channels=report.channels).loss(images, LABELS)[1]
    without = Distiller(student, teacher).loss(images, LABELS)[1]
    assert with_channels["cosine_forward"] > without["cosine_forward"] + 0.1


def test_bad_input(make_teacher, make_student, images):
    teacher, student = make_teacher(), make_student()
    with pytest.raises(TypeError, match="create_teacher"):
        Distiller(student, teacher.model)
    with pytest.raises(TypeError, match="forward_features"):
        Distiller(nn.Linear(2, 2), teacher)
    with pytest.raises(ValueError, match="student 7, teacher 5"):
        Distiller(make_student(num_classes=7), teacher)
    with pytest.raises(ValueError, match="student 12 and teacher 16"):
        Distiller(make_student(d_model=12), teacher, DistillConfig(calibration="none"))
    with pytest.raises(ValueError, match="progress"):
        Distiller(student, teacher).loss(images, LABELS, 1.5)
    with pytest.raises(ValueError, match="labels"):
        Distiller(student, teacher).loss(images, None)
    wrong = [
        {"weighting": "random"},
        {"directions": "backward"},
        {"calibration": "cnn"},
        {"alpha": -1},
        {"kappa": float("nan")},
        {"temperature": 0},
        {"clip": (2, 1)},
        {"floor": 0},
        {"ema": 1.0},
        {"alpha_decay": 2},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            DistillConfig(**options)
    with pytest.raises(ValueError, match="nothing to learn"):
        DistillConfig(alpha=0, beta=0, kappa=0)
