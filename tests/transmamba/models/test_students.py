"""What every student has in common: direction features, roles, gradients, saving, cloning and distillation."""

import dataclasses

import pytest
import torch

from transmamba.distill import DistillConfig, Distiller, SubcloneConfig, Taps, subclone
from transmamba.models import create_model, list_models, load_pretrained, save_pretrained
from transmamba.models.roles import PARTS

SMALL = {"d_model": 16, "depth": 2, "d_state": 3, "num_classes": 5}
STUDENTS = {
    "transmamba_vim_micro": SMALL,
    "transmamba_plainmamba_micro": SMALL,
    "transmamba_videomamba_micro": {**SMALL, "num_frames": 2, "order": "time_first"},
    "transmamba_lm_micro": {"d_model": 16, "depth": 2, "d_state": 3, "vocab_size": 22},
    "transmamba_text_micro": {"d_model": 16, "depth": 2, "d_state": 3, "vocab_size": 22},
    "transmamba_vmamba_micro": {"dims": (12, 20), "depths": (1, 2), "d_state": 3, "num_classes": 5},
}


def build(name, **kwargs):
    torch.manual_seed(0)
    return create_model(name, **{**STUDENTS[name], **kwargs})


def images_of(model, batch=2):
    config = model.config
    if model.grid is None:
        return torch.randint(config.vocab_size, (batch, 7))
    frames = [config.num_frames] if hasattr(config, "num_frames") else []
    return torch.randn(batch, config.in_channels, *frames, config.image_size, config.image_size)


@pytest.fixture(params=STUDENTS)
def name(request):
    return request.param


def test_names():
    assert set(STUDENTS) <= set(list_models())
    assert {f"plainmamba_l{size}" for size in (1, 2, 3)} <= set(list_models())
    assert {f"vmamba_{size}" for size in ("tiny", "small", "base")} <= set(list_models())
    assert {f"videomamba_{size}" for size in ("tiny", "small", "middle")} <= set(list_models())
    assert {f"mamba_{size}" for size in ("130m", "370m", "790m", "1.4b", "2.8b")} <= set(list_models())
    kinds, sizes = ("vim", "plainmamba", "vmamba", "videomamba", "lm", "text"), ("tiny", "small", "base")
    assert {f"transmamba_{kind}_{size}" for kind in kinds for size in sizes} <= set(list_models())


def test_mean_of_direction_features_is_the_layers_output(name):
    model = build(name).double().eval()
    images, taps = images_of(model), Taps()
    images = images.double() if images.is_floating_point() else images
    feature = model.forward_features(images, taps)
    torch.testing.assert_close(model.forward_features(images), feature, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(model(images), model.head(feature))
    assert sorted(taps.merged) == list(range(len(model.layer_names)))
    for i, (width, grid) in enumerate(zip(model.widths, model.grids, strict=True)):
        assert taps.merged[i].shape == (2, 7 if grid is None else torch.tensor(grid).prod(), width)
        assert len(taps.directions[i]) == len(model.directions)
        torch.testing.assert_close(torch.stack(taps.directions[i]).mean(0), taps.merged[i], rtol=1e-11, atol=1e-12)
        if len(model.directions) > 1:
            assert not torch.allclose(taps.directions[i][0], taps.directions[i][1])
    merged = Taps(directions=False)
    model.forward_features(images, merged)
    torch.testing.assert_close(merged.merged, taps.merged, rtol=1e-11, atol=1e-12)


def test_every_parameter_has_a_role(name):
    model = build(name)
    roles = model.clone_roles()
    assert list(roles) == [n for n, _ in model.named_parameters()]
    assert {role.part for role in roles.values()} <= set(PARTS)
    depth = len(model.layer_names)
    for part in ("norm1_weight", "norm2_weight", "fc1_weight", "fc2_weight", "mixer_out_weight"):
        assert sorted(r.layer for r in roles.values() if r.part == part) == list(range(depth)), part
    for part in ("final_norm_weight", "embedding" if model.grid is None else "head_weight"):
        assert [r.layer for r in roles.values() if r.part == part] == [None], part


def test_gradients_reach_every_parameter(name):
    model = build(name)
    model(images_of(model)).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A class token in front is the forward scan's first step, which no decay reaches.
    assert idle == (["layers.1.mixer.A_log"] if model.class_position == 0 else [])


def test_round_trip(name, tmp_path):
    pytest.importorskip("safetensors")
    model = build(name).eval()
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.config == model.config
    images = images_of(model)
    assert torch.equal(loaded(images), model(images))


def test_sixteen_bits(name):
    model = build(name).bfloat16().eval()
    images = images_of(model)
    with torch.no_grad():
        out = model(images.bfloat16() if images.is_floating_point() else images)
        expected = build(name).eval()(images)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).abs().max() < 0.1 * expected.abs().max() + 0.02


def test_config_is_a_frozen_dataclass(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        build(name).config.d_state = 3


def test_it_is_cloned_into_and_distilled(name):
    transformers = pytest.importorskip("transformers")
    from transmamba.teachers import create_teacher

    student = build(name)
    config = student.config
    images, labels = images_of(student, 6), torch.arange(6) % 5
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    if not config.num_classes:
        shape = {"vocab_size": config.vocab_size, "max_position_embeddings": 32}
        teacher = create_teacher(transformers.BertConfig(**sizes, **shape))
    elif student.grid is None:
        teacher = create_teacher(transformers.LlamaConfig(**sizes, vocab_size=config.num_classes))
        labels = torch.cat([images[:, 1:], torch.full((6, 1), -100)], dim=1)
    else:
        shape = {"image_size": config.image_size, "num_channels": config.in_channels}
        teacher = create_teacher(transformers.ViTConfig(**sizes, **shape, patch_size=2, num_labels=5))
    report = subclone(student, teacher, SubcloneConfig(), [images])
    found = {row.tensor: row for row in report.rows}
    for tensor, role in student.clone_roles().items():
        if role.part in ("gate_weight", "fc1_weight", "fc2_weight") and role.layer < report.early:
            assert found[tensor].coverage > 0, tensor
        if role.part == "mixer_out_weight":
            assert "as much as" in found[tensor].note, tensor
    assert "Residual channels" in report.to_markdown()

    options = DistillConfig() if config.num_classes else DistillConfig(beta=0.0, kappa=0.0)
    distiller = Distiller(student, teacher, options, report.channels)
    optimizer = torch.optim.Adam(distiller.parameters(), 3e-3)
    losses = []
    for _ in range(3):
        loss, metrics = distiller.loss(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert [m for m in metrics if m.startswith("cosine_")] == [f"cosine_{d}" for d in student.directions]
    assert distiller.layer_weights.shape == (len(student.directions), len(student.layer_names))
