"""Subcloning: exact with equal shapes, the stated formula otherwise, and a report that leaves nothing out."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.transmamba.distill.cloned import rows, values
from transmamba.distill import SubcloneConfig, subclone
from transmamba.distill.importance import measure_importance


def test_equal_shapes_are_copied_exactly(make_teacher, make_student):
    teacher, student = make_teacher(), make_student()
    before = values(student)
    report = subclone(student, teacher, SubcloneConfig(early=3))
    for i in range(3):
        layer = student.layers[i]
        for part, module in (
            ("norm1", layer.norm),
            ("norm2", layer.norm2),
            ("fc1", layer.mlp.fc1),
            ("fc2", layer.mlp.fc2),
        ):
            assert torch.equal(module.weight, teacher.part(part, i).weight)
            assert torch.equal(module.bias, teacher.part(part, i).bias)
    for part, module in (("patch", student.patch_embed.proj), ("final_norm", student.norm_f), ("head", student.head)):
        assert torch.equal(module.weight, teacher.part(part).weight)
        assert torch.equal(module.bias, teacher.part(part).bias)
    position = teacher.part("position")
    assert torch.equal(student.cls_token, teacher.part("class_token"))
    assert torch.equal(student.pos_embed[:, 8], position[:, 0])
    assert torch.equal(student.pos_embed[:, [i for i in range(17) if i != 8]], position[:, 1:])
    for name, row in rows(report).items():
        mixer = ".mixer." in name
        assert row.coverage == (0 if mixer else 1), name
        assert row.scale == (None if mixer else 1), name
        if mixer:
            assert torch.equal(dict(student.named_parameters())[name], before[name])
            assert "SSM" in row.note
    assert report.channels == list(range(16))
    assert all("attention" in name for name in report.unused)


def test_the_cloned_mlp_computes_what_the_teachers_does(make_teacher, make_student):
    teacher, student = make_teacher(), make_student()
    subclone(student, teacher, SubcloneConfig(early=3))
    x = torch.randn(2, 5, 16)
    expected = teacher.part("fc2", 1)(F.gelu(teacher.part("fc1", 1)(teacher.part("norm2", 1)(x))))
    torch.testing.assert_close(student.layers[1].mlp(student.layers[1].norm2(x)), expected)


def test_narrower_student_follows_the_formula(make_teacher, make_student, images):
    teacher, student = make_teacher(), make_student(d_model=12, mlp_ratio=1.5)
    report = subclone(student, teacher, SubcloneConfig(early=3), images.split(4))
    residual, hidden = torch.tensor(report.channels), torch.tensor(report.hidden[1])
    assert residual.shape == (12,)
    assert hidden.shape == (18,)
    mlp, fc1, fc2 = student.layers[1].mlp, teacher.part("fc1", 1), teacher.part("fc2", 1)
    scale_in, scale_hidden = math.sqrt(16 / 12), math.sqrt(24 / 18)
    torch.testing.assert_close(mlp.fc1.weight, scale_in * fc1.weight[hidden][:, residual])
    torch.testing.assert_close(mlp.fc2.weight, scale_hidden * fc2.weight[residual][:, hidden])
    assert torch.equal(mlp.fc1.bias, fc1.bias[hidden])
    assert torch.equal(mlp.fc2.bias, fc2.bias[residual])
    torch.testing.assert_close(student.head.weight, scale_in * teacher.part("head").weight[:, residual])
    assert torch.equal(student.head.bias, teacher.part("head").bias)
    assert torch.equal(student.patch_embed.proj.weight, teacher.part("patch").weight[residual])
    assert torch.equal(student.norm_f.weight, teacher.part("final_norm").weight[residual])
    assert torch.equal(student.cls_token, teacher.part("class_token")[..., residual])
    found = rows(report)
    assert found["layers.1.mlp.fc1.weight"].scale == pytest.approx(scale_in)
    assert found["layers.1.mlp.fc1.weight"].index == "18 of 24 units, 12 of 16 channels"
    assert found["norm_f.weight"].scale == 1


def test_activation_keeps_the_loudest_channels(make_teacher, images):
    teacher = make_teacher()
    scores = measure_importance(teacher, "activation", images.split(2))
    features = teacher(images).features
    expected = sum(f.abs().mean((0, 1)) / f.abs().mean((0, 1)).sum() for f in features)
    torch.testing.assert_close(scores.channels, expected.double(), rtol=1e-5, atol=1e-7)
    inner = []
    hook = teacher.part("fc2", 2).register_forward_pre_hook(lambda _m, args: inner.append(args[0]))
    teacher(images)
    hook.remove()
    assert scores.hidden[2].argsort().tolist() == inner[0].abs().mean((0, 1)).argsort().tolist()


def test_stability_keeps_what_fine_tuning_left_alone(make_teacher, make_student):
    pretrained, teacher = make_teacher(), make_teacher()
    with torch.no_grad():
        teacher.part("fc2", 0).weight[3] += 1
        teacher.part("fc1", 1).weight[7] += 1
    scores = measure_importance(teacher, "stability", pretrained=pretrained)
    assert scores.channels.argmin() == 3
    assert scores.hidden[1].argmin() == 7
    report = subclone(
        make_student(d_model=15, mlp_ratio=23 / 15),
        teacher,
        SubcloneConfig(importance="stability", early=3),
        pretrained=pretrained,
    )
    assert report.channels == [c for c in range(16) if c != 3]
    assert report.hidden[1] == [h for h in range(24) if h != 7]


def test_magnitude_and_first(make_teacher, make_student):
    teacher = make_teacher()
    with torch.no_grad():
        teacher.part("fc1", 1).weight[9] = 0
        teacher.part("fc2", 1).weight[:, 9] = 0
    assert measure_importance(teacher, "magnitude").hidden[1].argmin() == 9
    report = subclone(make_student(d_model=12), teacher, SubcloneConfig(importance="first"))
    assert report.channels == list(range(12))


def test_wider_student_keeps_its_own_outer_channels(make_teacher, make_student):
    teacher, student = make_teacher(), make_student(d_model=20, mlp_ratio=1.5)
    before = values(student)
    report = subclone(student, teacher, SubcloneConfig(early=3))
    weight = student.layers[0].mlp.fc1.weight
    assert torch.equal(weight[3:27, 2:18], teacher.part("fc1", 0).weight)
    old = before["layers.0.mlp.fc1.weight"]
    assert torch.equal(weight[:3], old[:3])
    assert torch.equal(weight[:, 18:], old[:, 18:])
    assert rows(report)["layers.0.mlp.fc1.weight"].coverage == pytest.approx(16 * 24 / (20 * 30))
    assert report.channels == list(range(2, 18))


def test_only_the_early_layers_by_default(make_teacher, make_student):
    teacher, student = make_teacher(), make_student()
    before = values(student)
    report = subclone(student, teacher)
    assert report.early == 2
    for name, row in rows(report).items():
        if name.startswith("layers.2."):
            assert row.coverage == 0
            assert torch.equal(dict(student.named_parameters())[name], before[name])
    assert "early" in rows(report)["layers.2.norm.weight"].note
    assert rows(report)["layers.1.norm.weight"].coverage == 1
    assert subclone(student, teacher, SubcloneConfig(early=0)).hidden == {}
    assert subclone(student, teacher, SubcloneConfig(early=99)).early == 3


@pytest.mark.parametrize(
    ("kind", "teachers"), [("uniform", [0, 2]), ("block", [0, 1]), ("last", [2, 2]), ([2, 0], [2, 0])]
)
def test_layer_map(make_teacher, make_student, kind, teachers):
    teacher, student = make_teacher(), make_student(depth=2)
    report = subclone(student, teacher, SubcloneConfig(layer_map=kind, early=2))
    assert report.layer_map == teachers or kind == "uniform"
    for i, t in enumerate(report.layer_map):
        assert torch.equal(student.layers[i].mlp.fc1.weight, teacher.part("fc1", t).weight)
        assert rows(report)[f"layers.{i}.mlp.fc1.weight"].source == f"vit.layers.{t}.mlp.fc1.weight"


def test_other_patch_size_and_grid(make_teacher, make_student):
    teacher, student = make_teacher(), make_student(image_size=12, patch_size=4)
    report = subclone(student, teacher)
    found = rows(report)
    assert found["pos_embed"].note == "interpolated from 4x4 to 3x3; class position moved to 4"
    assert found["patch_embed.proj.weight"].note == "kernel resampled from 2x2 to 4x4"
    assert found["patch_embed.proj.weight"].scale == pytest.approx(0.25)
    flat, flat_teacher = torch.full((1, 1, 12, 12), 0.7), torch.full((1, 1, 8, 8), 0.7)
    expected = teacher.part("patch")(flat_teacher)[0, :, 0, 0]
    torch.testing.assert_close(student.patch_embed(flat)[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_kept_with_a_reason(make_teacher, make_student):
    teacher = make_teacher("DeiT")
    student = make_student(in_channels=3, num_classes=7, norm="rms", class_token="none")
    before = values(student)
    found = rows(subclone(student, teacher))
    assert found["patch_embed.proj.weight"].note == "image channels differ: student 3, teacher 1"
    assert found["head.weight"].note == found["head.bias"].note == "classes differ: student 7, teacher 5"
    for name in ("patch_embed.proj.weight", "head.weight", "head.bias"):
        assert torch.equal(dict(student.named_parameters())[name], before[name])
    assert torch.equal(student.norm_f.weight, teacher.part("final_norm").weight)
    assert torch.equal(student.pos_embed, teacher.part("position")[:, 2:])


def test_published_vim_without_mlp(make_teacher, make_student):
    report = subclone(make_student(mlp_ratio=0.0, norm="rms"), make_teacher())
    assert report.hidden == {}
    assert rows(report)["layers.0.norm.weight"].coverage == 1


@pytest.mark.parametrize("shape", [{}, {"d_model": 12, "depth": 2}, {"image_size": 12, "patch_size": 3}])
def test_mixers_become_as_loud_as_the_attention(make_teacher, make_student, images, shape):
    teacher, student = make_teacher(), make_student(**shape)
    with torch.no_grad():
        teacher.part("proj", 1).weight.mul_(3)
    before = values(student)
    report = subclone(student, teacher, images=iter([images]))
    outputs = []
    for i, t in enumerate(report.layer_map):
        teacher.part("proj", t).register_forward_hook(lambda _m, _a, out, i=i: outputs.append((i, "teacher", out)))
        student.layers[i].mixer.register_forward_hook(lambda _m, _a, out, i=i: outputs.append((i, "student", out)))
    teacher(images)
    resized = F.interpolate(images, student.config.image_size, mode="bilinear", antialias=True)
    student(resized if "image_size" in shape else images)
    spread = {
        (i, who): out[..., report.channels if who == "teacher" else slice(None)].flatten(0, 1).var(0).mean().sqrt()
        for i, who, out in outputs
    }
    for i in range(student.config.depth):
        # Scaling one layer changes the next one's input a little.
        assert spread[i, "student"].item() == pytest.approx(spread[i, "teacher"].item(), rel=0.25)
        name = f"layers.{i}.mixer.out_proj.weight"
        row = rows(report)[name]
        torch.testing.assert_close(dict(student.named_parameters())[name], row.scale * before[name])
        assert row.coverage == 0
        assert f"as much as vit.layers.{report.layer_map[i]}.attention.o_proj" in row.note


def test_mixers_that_are_not_scaled_say_why(make_teacher, make_student, images):
    teacher = make_teacher()
    name = "layers.0.mixer.out_proj.weight"
    for student, config, given, reason in (
        (make_student(), SubcloneConfig(), None, "no images were given"),
        (make_student(in_channels=3), SubcloneConfig(), [images], "takes 3 image channels, the teacher 1"),
        (make_student(), SubcloneConfig(mixer_scale=False), [images], "part of the SSM"),
    ):
        before = values(student)[name]
        row = rows(subclone(student, teacher, config, given))[name]
        assert reason in row.note
        assert row.scale is None
        assert torch.equal(student.layers[0].mixer.out_proj.weight, before)


def test_report(make_teacher, make_student, images):
    student = make_student(d_model=12)
    report = subclone(student, make_teacher(), images=[images])
    assert [row.tensor for row in report.rows] == [name for name, _ in student.named_parameters()]
    assert all(row.source or row.note for row in report.rows)
    assert sum(row.numel for row in report.rows) == sum(p.numel() for p in student.parameters())
    content = json.loads(json.dumps(report.to_dict()))
    assert content["coverage"] == pytest.approx(report.coverage)
    assert content["channels"] == report.channels
    text = report.to_markdown()
    for row in report.rows:
        assert f"| `{row.tensor}` |" in text
    assert "vit.layers.2.mlp.fc1.weight" in report.unused
    assert "`vit.layers.2.mlp.fc1.weight`" in text


def test_bad_input(make_teacher, make_student, images):
    teacher, student = make_teacher(), make_student(d_model=12)
    before = values(student)
    with pytest.raises(ValueError, match="needs images"):
        subclone(student, teacher)
    with pytest.raises(ValueError, match="at least one image"):
        subclone(student, teacher, images=[])
    with pytest.raises(TypeError, match="images must yield tensors"):
        subclone(student, teacher, images=[images.numpy()])
    with pytest.raises(ValueError, match="needs pretrained"):
        subclone(student, teacher, SubcloneConfig(importance="stability"))
    with pytest.raises(ValueError, match="pretrained must have"):
        subclone(student, teacher, SubcloneConfig(importance="stability"), pretrained=make_teacher(hidden_size=8))
    with pytest.raises(ValueError, match="each of 3"):
        subclone(student, teacher, SubcloneConfig(layer_map=[0]))
    with pytest.raises(TypeError, match="clone_roles"):
        subclone(nn.Linear(2, 2), teacher)
    with pytest.raises(TypeError, match="create_teacher"):
        subclone(student, teacher.model)
    assert all(torch.equal(p, before[name]) for name, p in student.named_parameters())
    for wrong in ({"mixer": "q"}, {"importance": "random"}, {"early": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SubcloneConfig(**wrong)
    with pytest.raises(TypeError, match="early"):
        SubcloneConfig(early=1.5)
