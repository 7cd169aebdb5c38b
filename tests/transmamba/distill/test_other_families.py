"""Cloning and distillation beyond ViT and Vim: text, videos, layers of different width, teachers without a head."""

import json
import math

import pytest
import torch

from tests.transmamba.distill.cloned import rows
from transmamba.distill import DistillConfig, Distiller, SubcloneConfig, Taps, subclone
from transmamba.distill.losses import mean_cosine
from transmamba.models import create_model
from transmamba.teachers import create_teacher

transformers = pytest.importorskip("transformers")

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def llama(**sizes):
    defaults = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    teacher = create_teacher(
        transformers.LlamaConfig(**{**defaults, "intermediate_size": 24, "vocab_size": 20, **sizes})
    )
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return teacher


def language_student(**kwargs):
    torch.manual_seed(1)
    sizes = {"d_model": 16, "depth": 3, "d_state": 3, "mlp_ratio": 1.5, "vocab_size": 20, "pad_vocab_size_multiple": 1}
    return create_model("transmamba_lm_micro", **{**sizes, **kwargs})


def test_a_language_model_of_equal_shape_is_copied_exactly():
    teacher, student = llama(), language_student(tie_embeddings=False)
    found = rows(subclone(student, teacher, SubcloneConfig(early=3)))
    assert torch.equal(student.backbone.embedding.weight, teacher.part("embedding").weight)
    assert torch.equal(student.lm_head.weight, teacher.part("head").weight)
    assert torch.equal(student.backbone.norm_f.weight, teacher.part("final_norm").weight)
    x = torch.randn(2, 5, 16)
    for i, block in enumerate(student.backbone.layers):
        layer = teacher.part("layers")[i]
        assert torch.equal(block.norm.weight, layer.input_layernorm.weight)
        torch.testing.assert_close(block.mlp(block.norm2(x)), layer.mlp(layer.post_attention_layernorm(x)))
    for name, row in found.items():
        assert row.coverage == (0 if ".mixer." in name else 1), name


@pytest.mark.parametrize("importance", ["activation", "magnitude"])
def test_a_narrower_language_model_follows_the_formula(importance):
    teacher, student = llama(), language_student(d_model=12)
    ids = torch.randint(20, (2, 9))
    report = subclone(student, teacher, SubcloneConfig(early=3, importance=importance), [ids])
    residual, hidden = torch.tensor(report.channels), torch.tensor(report.hidden[2])
    mlp = student.backbone.layers[2].mlp
    # Tied to the head, and not summed over where a token is looked up: the embedding keeps its scale.
    assert torch.equal(student.backbone.embedding.weight, teacher.part("embedding").weight[:, residual])
    for part in ("gate", "fc1"):
        expected = math.sqrt(16 / 12) * teacher.part(part, 2).weight[hidden][:, residual]
        torch.testing.assert_close(getattr(mlp, part).weight, expected)
    assert "as much as model.layers.2.self_attn.o_proj" in rows(report)["backbone.layers.2.mixer.out_proj.weight"].note


def test_other_vocabulary_and_missing_parts_are_kept_with_a_reason(make_teacher):
    found = rows(subclone(language_student(vocab_size=21), llama()))
    assert found["backbone.embedding.weight"].note == "vocabularies differ: student 21, teacher 20"
    found = rows(subclone(language_student(), make_teacher()))
    assert found["backbone.embedding.weight"].note == "the teacher has no embedding"
    assert found["backbone.layers.0.mlp.gate.weight"].note == "the teacher has no gate"
    assert found["backbone.layers.0.mlp.fc1.weight"].coverage == 1


def test_stages_of_different_width_have_channels_of_their_own(make_teacher, images):
    teacher = make_teacher()
    torch.manual_seed(1)
    student = create_model("transmamba_vmamba_micro", dims=(12, 20), depths=(1, 2), mlp_ratio=1.5, num_classes=5)
    report = subclone(student, teacher, SubcloneConfig(early=3), [images])
    narrow, wide = torch.tensor(report.channels[0]), torch.tensor(report.channels[1])
    assert report.channels[2] == wide.tolist() == list(range(2, 18))
    assert len(narrow) == 12
    t = report.layer_map[0]
    hidden = torch.tensor(report.hidden[0])
    mlp = student.layers[0].blocks[0].mlp
    expected = math.sqrt(16 / 12) * teacher.part("fc1", t).weight[hidden][:, narrow]
    torch.testing.assert_close(mlp.fc1.weight, expected)
    mlp = student.layers[1].blocks[0].mlp
    torch.testing.assert_close(mlp.fc1.weight[3:27, 2:18], teacher.part("fc1", report.layer_map[1]).weight)
    found = rows(report)
    assert found["patch_embed.0.weight"].note == "a Transformer does not have it"
    assert found["classifier.head.weight"].coverage == pytest.approx(16 / 20)
    text = report.to_markdown()
    assert "- Residual channels of layers 0: 12: " in text
    assert "- Residual channels of layers 1, 2: 16: " in text
    assert json.loads(json.dumps(report.to_dict()))["channels"] == report.channels


def test_patches_go_into_the_middle_frame_of_a_tubelet(make_teacher):
    teacher = make_teacher()
    torch.manual_seed(1)
    student = create_model("transmamba_videomamba_micro", d_model=16, depth=3, mlp_ratio=1.5, tubelet_size=2)
    found = rows(subclone(student, teacher))
    weight = student.patch_embed.proj.weight
    assert torch.equal(weight[:, :, 1], teacher.part("patch").weight)
    assert not weight[:, :, 0].any()
    assert found["patch_embed.proj.weight"].note == "in the middle of 2 frames"
    assert torch.equal(student.pos_embed, teacher.part("position"))


def test_a_language_models_loss_is_the_formula():
    teacher, student = llama(), language_student()
    distiller = Distiller(student, teacher, DistillConfig(ema=0.0, weighting="uniform"))
    ids = torch.randint(20, (2, 6))
    labels = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], dim=1)
    total, metrics = distiller.loss(ids, labels)
    logits, seen = student(ids), teacher(ids)
    task = -logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).mean()
    p, q = (seen.logits / 2).softmax(-1), (logits / 2).log_softmax(-1)
    kd = 4 * (p * (p.log() - q)).sum(-1).mean()
    taps = Taps()
    student.forward_features(ids, taps)
    cosine = [
        mean_cosine(distiller.calibration(taps.directions[i][0], i), distiller.calibration.teacher(f, None, None))
        for i, f in enumerate(seen.features)
    ]
    feature = sum(1 - c for c in cosine) / 3
    torch.testing.assert_close(total, 0.8 * task + 0.2 * feature + 0.5 * kd)
    assert "cosine_forward" in metrics


def test_padding_counts_neither_in_the_teacher_nor_in_the_loss():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    teacher = create_teacher(transformers.BertConfig(**sizes, vocab_size=20, max_position_embeddings=9))
    student = create_model("transmamba_text_micro", d_model=16, depth=3, d_state=3, vocab_size=20)
    distiller = Distiller(student, teacher, DistillConfig(beta=0.0, kappa=0.0, weighting="uniform"))
    ids, mask = torch.randint(20, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    padded = distiller.loss(ids, None, attention_mask=mask)[1]["feature"]
    one, other = (distiller.loss(each, None)[1]["feature"] for each in (ids[:1], ids[1:, :4]))
    torch.testing.assert_close(padded, (6 * one + 4 * other) / 10)


def test_every_layer_is_held_against_its_own_grid_and_width(make_teacher, images):
    teacher = make_teacher()
    torch.manual_seed(1)
    student = create_model("transmamba_vmamba_micro", dims=(12, 20), depths=(1, 2), num_classes=5)
    distiller = Distiller(student, teacher, DistillConfig(weighting="uniform", directions="merged"))
    feature = distiller.loss(images, LABELS)[1]["feature"]
    taps, seen = Taps(directions=False), teacher(images)
    student.forward_features(images, taps)
    cosine = []
    for i, (t, grid) in enumerate(zip(distiller.layer_map, [(4, 4), (2, 2), (2, 2)], strict=True)):
        target = distiller.calibration.teacher(seen.features[t], (4, 4), grid, i)
        assert target.shape == (6, grid[0] * grid[1], 16 if i == 0 else 20)
        cosine.append(mean_cosine(distiller.calibration(taps.merged[i], i), target))
    torch.testing.assert_close(feature, (1 - torch.stack(cosine)).mean().detach(), rtol=1e-4, atol=1e-5)
    official = Distiller(student, teacher, DistillConfig(weighting="official"))
    assert official.loss(images, LABELS)[0].isfinite()


def test_a_teacher_without_a_head_gives_features_only(make_student, images):
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.CLIPVisionConfig(**sizes, image_size=8, patch_size=2, num_channels=1)
    teacher = create_teacher(config)
    with pytest.raises(ValueError, match="kappa must be 0 with a teacher without a head"):
        Distiller(make_student(), teacher)
    student = make_student()
    report = subclone(student, teacher, images=[images])
    assert torch.equal(student.layers[0].mlp.fc1.weight, teacher.part("fc1", 0).weight)
    assert report.rows[-1].note == "the teacher has no head"
    metrics = Distiller(student, teacher, DistillConfig(kappa=0)).loss(images, LABELS)[1]
    assert metrics["kd"] == 0
    assert metrics["feature"] > 0
