"""Teachers: both families, under the names of transformers 4 and 5, never changed by being watched."""

import dataclasses

import pytest
import torch
from torch import nn

from transmamba.teachers import Teacher, create_teacher
from transmamba.teachers.spec import find

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "num_labels": 5,
}
FAMILIES = [
    ("ViTConfig", "ViTForImageClassification", 1),
    ("DeiTConfig", "DeiTForImageClassification", 2),
    ("DeiTConfig", "DeiTForImageClassificationWithTeacher", 2),
]


def build(config, model, **sizes):
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**{**SIZES, **sizes}))


@pytest.mark.parametrize(("config", "name", "special"), FAMILIES)
def test_features_are_the_hidden_states_without_special_tokens(config, name, special):
    model = build(config, name)
    teacher = create_teacher(model)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        expected = model.eval()(pixel_values=images, output_hidden_states=True)
    output = teacher(images)
    assert torch.equal(output.logits, expected.logits)
    assert output.grid == teacher.grid == (4, 4)
    assert (teacher.d_model, teacher.depth, teacher.d_hidden, teacher.num_classes) == (16, 3, 24, 5)
    assert len(output.features) == 3
    for feature, hidden in zip(output.features[:-1], expected.hidden_states[1:-1], strict=True):
        assert torch.equal(feature, hidden[:, special:])
    assert output.features[-1].shape == (2, 16, 16)


def test_every_part_is_what_its_name_says():
    teacher = create_teacher(build("ViTConfig", "ViTForImageClassification"))
    shapes = {
        name: tuple(teacher.part(name, 2).weight.shape) for name in ("query", "key", "value", "proj", "fc1", "fc2")
    }
    assert shapes == {**dict.fromkeys(("query", "key", "value", "proj"), (16, 16)), "fc1": (24, 16), "fc2": (16, 24)}
    assert teacher.part("fc1", 2) is not teacher.part("fc1", 1)
    assert teacher.part("position").shape == (1, 17, 16)
    assert tuple(teacher.part("head").weight.shape) == (5, 16)


def test_names_of_transformers_4_are_found():
    """A model of the same structure under the earlier names."""

    def node(**parts):
        module = nn.Module()
        for name, part in parts.items():
            setattr(module, name, part)
        return module

    def layer():
        attention = node(query=nn.Linear(8, 8), key=nn.Linear(8, 8), value=nn.Linear(8, 8))
        return node(
            attention=node(attention=attention, output=node(dense=nn.Linear(8, 8))),
            intermediate=node(dense=nn.Linear(8, 12)),
            output=node(dense=nn.Linear(12, 8)),
            layernorm_before=nn.LayerNorm(8),
            layernorm_after=nn.LayerNorm(8),
        )

    embeddings = node(
        cls_token=nn.Parameter(torch.zeros(1, 1, 8)),
        position_embeddings=nn.Parameter(torch.zeros(1, 5, 8)),
        patch_embeddings=node(projection=nn.Conv2d(1, 8, 4, stride=4)),
    )
    vit = node(embeddings=embeddings, encoder=node(layer=nn.ModuleList([layer(), layer()])), layernorm=nn.LayerNorm(8))
    model = node(vit=vit, classifier=nn.Linear(8, 3))
    model.config = transformers.ViTConfig(image_size=8, patch_size=4)
    teacher = Teacher(model)
    assert (teacher.depth, teacher.d_model, teacher.d_hidden, teacher.grid) == (2, 8, 12, (2, 2))
    assert teacher.part("fc2", 1) is vit.encoder.layer[1].output.dense


def test_always_eval_without_gradients_and_hooks():
    model = build("ViTConfig", "ViTForImageClassification", hidden_dropout_prob=0.5)
    teacher = create_teacher(model)
    images = torch.randn(2, 1, 8, 8, requires_grad=True)
    first = teacher(images)
    teacher.train()
    model.train()
    second = teacher(images)
    assert torch.equal(first.logits, second.logits)
    assert not second.logits.requires_grad
    assert not any(f.requires_grad for f in second.features)
    assert all(not layer._forward_hooks for layer in teacher.part("layers"))
    with pytest.raises(ValueError, match="Input image size"):
        teacher(torch.randn(1, 1, 6, 6))
    assert all(not layer._forward_hooks for layer in teacher.part("layers"))


def test_weights_hash_follows_the_weights(tmp_path):
    teacher = create_teacher(build("ViTConfig", "ViTForImageClassification"))
    before = teacher.weights_hash()
    assert len(before) == 64
    assert int(before, 16) >= 0
    assert create_teacher(build("ViTConfig", "ViTForImageClassification")).weights_hash() == before
    teacher.model.save_pretrained(tmp_path)
    assert create_teacher(tmp_path).weights_hash() == before
    with torch.no_grad():
        teacher.part("fc1", 1).bias[0] += 1e-6
    assert teacher.weights_hash() != before


def test_a_distilled_deit_keeps_both_heads_when_loaded(tmp_path):
    model = build("DeiTConfig", "DeiTForImageClassificationWithTeacher")
    model.save_pretrained(tmp_path)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(create_teacher(tmp_path)(images).logits, create_teacher(model)(images).logits)


def test_rectangular_images():
    config = transformers.ViTConfig(**{**SIZES, "image_size": (8, 12)})
    teacher = create_teacher(config)
    assert teacher.grid == (4, 6)
    assert teacher(torch.randn(1, 1, 8, 12)).features[0].shape == (1, 24, 16)


def test_bad_input(tmp_path):
    with pytest.raises(TypeError, match="a model, a config or a path, got int"):
        create_teacher(3)
    with pytest.raises(ValueError, match="no Transformer known here; give a TeacherSpec"):
        create_teacher(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'gpt2'"):
        create_teacher(transformers.GPT2Config())
    with pytest.raises(FileNotFoundError, match="no such folder"):
        create_teacher(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no config\.json"):
        create_teacher(tmp_path)
    (tmp_path / "config.json").write_text('{"model": "vim_tiny", "config": {}}')
    with pytest.raises(ValueError, match="cannot be loaded by transformers"):
        create_teacher(tmp_path)
    assert find(nn.Linear(2, 2), "weight.nothing.there") is None


TEXT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 20}
PATCHES = {**{k: v for k, v in SIZES.items() if k != "num_labels"}, "num_channels": 1}
OTHERS = {
    "CLIPVisionModel": ("CLIPVisionConfig", PATCHES, 1),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", PATCHES, 1),
    "CLIPTextModel": ("CLIPTextConfig", {**TEXT, "bos_token_id": 1, "eos_token_id": 2}, 0),
    "CLIPTextModelWithProjection": ("CLIPTextConfig", {**TEXT, "bos_token_id": 1, "eos_token_id": 2}, 0),
    "LlamaForCausalLM": ("LlamaConfig", {**TEXT, "num_key_value_heads": 1}, 0),
    "LlamaModel": ("LlamaConfig", TEXT, 0),
    "BertModel": ("BertConfig", TEXT, 0),
    "BertForMaskedLM": ("BertConfig", TEXT, 0),
}


def other(name):
    torch.manual_seed(0)
    config, sizes, _ = OTHERS[name]
    return getattr(transformers, name)(getattr(transformers, config)(**sizes))


@pytest.mark.parametrize("name", OTHERS)
def test_features_of_other_families(name):
    special = OTHERS[name][2]
    model = other(name).eval()
    teacher = create_teacher(model)
    inputs = torch.randn(2, 1, 8, 8) if special else torch.randint(20, (2, 7))
    with torch.no_grad():
        expected = model(**{teacher.spec.inputs: inputs}, output_hidden_states=True)
    output = teacher(inputs)
    assert len(output.features) == teacher.depth == 3
    assert (teacher.d_model, teacher.d_hidden, teacher.grid) == (16, 24, (4, 4) if special else None)
    assert output.grid == teacher.grid
    for feature, hidden in zip(output.features[:-1], expected.hidden_states[1:-1], strict=True):
        assert torch.equal(feature, hidden[:, special:])
    assert output.features[-1].shape == (2, 16 if special else 7, 16)
    assert teacher.num_classes == (20 if name == "LlamaForCausalLM" else 0)
    if hasattr(expected, "logits"):
        assert torch.equal(output.logits, expected.logits)
    else:
        assert output.logits is None
    parts = ("query", "proj", "fc1", "fc2")
    assert [tuple(teacher.part(p, 2).weight.shape) for p in parts] == [(16, 16), (16, 16), (24, 16), (16, 24)]
    if special:
        assert teacher.part("position").shape == (1, 17, 16)
        assert teacher.part("class_token").shape == (1, 1, 16)
    else:
        assert teacher.part("embedding").weight.shape == (20, 16)


@pytest.mark.parametrize("name", ["CLIPVisionModel", "CLIPTextModel", "LlamaForCausalLM", "BertModel"])
def test_other_families_by_config_and_folder(name, tmp_path):
    model = other(name)
    assert type(create_teacher(model.config).model).__name__ == name
    model.save_pretrained(tmp_path)
    assert create_teacher(tmp_path).weights_hash() == create_teacher(model).weights_hash()


def test_of_a_whole_clip_the_vision_tower_is_read(tmp_path):
    text, vision = OTHERS["CLIPTextModel"][1], OTHERS["CLIPVisionModel"][1]
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
    model.save_pretrained(tmp_path)
    images = torch.randn(1, 1, 8, 8)
    whole = create_teacher(tmp_path)(images)
    tower = create_teacher(model.vision_model)(images)
    for a, b in zip(whole.features, tower.features, strict=True):
        assert torch.equal(a, b)
    assert create_teacher(model.config).grid == (4, 4)


def test_videos_are_looked_at_frame_by_frame():
    teacher = create_teacher(build("ViTConfig", "ViTForImageClassification"))
    video = torch.randn(2, 1, 3, 8, 8)
    output = teacher(video)
    frames = [teacher(frame) for frame in video.unbind(2)]
    assert output.grid == (3, 4, 4)
    torch.testing.assert_close(output.logits, torch.stack([f.logits for f in frames]).mean(0))
    for layer, feature in enumerate(output.features):
        torch.testing.assert_close(feature, torch.cat([f.features[layer] for f in frames], dim=1))


def test_a_spec_of_ones_own():
    model = build("ViTConfig", "ViTForImageClassification")
    known = create_teacher(model).spec
    own = dataclasses.replace(known, name="mine", head="", position="", norm1="")
    teacher = create_teacher(model, own)
    assert teacher.spec is own
    assert teacher.num_classes == 0
    with pytest.raises(ValueError, match=r"does not have vit\.layers\.0\.mlp\.nothing, named by mine"):
        create_teacher(model, dataclasses.replace(own, fc1="vit.layers.{i}.mlp.nothing"))
