"""A LLaVA taken apart, cloned part by part, and distilled on images and text together."""

import math

import pytest
import torch

from tests.transmamba.distill.cloned import rows
from transmamba.distill import DistillConfig, Distiller, SubcloneConfig, subclone_llava
from transmamba.models import create_model
from transmamba.teachers import create_llava_teacher

transformers = pytest.importorskip("transformers")

ALL = SubcloneConfig(early=9, importance="magnitude", mixer_scale=False)


def config(vision="CLIPVisionConfig", **options):
    sizes = {"hidden_size": 32, "num_attention_heads": 2}
    tower = getattr(transformers, vision)(
        **sizes, intermediate_size=64, num_hidden_layers=3, image_size=8, patch_size=4, num_channels=1
    )
    text = transformers.LlamaConfig(
        **sizes, intermediate_size=48, num_hidden_layers=2, num_key_value_heads=1, vocab_size=40
    )
    return transformers.LlavaConfig(vision_config=tower, text_config=text, image_token_id=39, **options)


def make(source=None):
    torch.manual_seed(0)
    teacher = create_llava_teacher(config() if source is None else source)
    with torch.no_grad():
        for parameter in teacher.language.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return teacher


def student(d_vision=32, d_model=32):
    torch.manual_seed(1)
    return create_model(
        "transmamba_vlm_micro",
        vision_options={"d_model": d_vision, "depth": 2, "patch_size": 4, "d_state": 3},
        language_options={"d_model": d_model, "depth": 2, "d_state": 3, "mlp_ratio": 1.5, "vocab_size": 40},
        image_token_id=39,
    )


def batch():
    ids = torch.randint(39, (2, 9))
    ids[:, 1:5] = 39
    return {"input_ids": ids, "pixel_values": torch.randn(2, 1, 8, 8)}


@pytest.mark.parametrize("vision", ["CLIPVisionConfig", "SiglipVisionConfig"])
def test_all_three_parts_are_copied_exactly(vision, tmp_path):
    strategy = "default" if vision.startswith("CLIP") else "full"
    teacher = make(config(vision, vision_feature_select_strategy=strategy))
    teacher.language.model.save_pretrained(tmp_path)
    model, teacher = student(), create_llava_teacher(tmp_path)
    reports = subclone_llava(model, teacher, ALL, ALL)
    assert teacher.vision_layers == 2
    assert reports["vision_tower"].layer_map == [0, 1]
    x = torch.randn(2, 4, 32)
    assert torch.equal(model.vision_tower.layers[1].mlp.fc1.weight, teacher.vision.part("fc1", 1).weight)
    assert torch.equal(model.vision_tower.patch_embed.proj.weight, teacher.vision.part("patch").weight)
    torch.testing.assert_close(model.multi_modal_projector(x), teacher.projector(x))
    for block, layer in zip(model.language_model.backbone.layers, teacher.language.part("layers"), strict=True):
        torch.testing.assert_close(block.mlp(block.norm2(x)), layer.mlp(layer.post_attention_layernorm(x)))
    assert torch.equal(model.language_model.backbone.embedding.weight, teacher.language.part("embedding").weight)
    for name, report in reports.items():
        for tensor, row in rows(report).items():
            own = ".mixer." in tensor or (name == "vision_tower" and row.source is None)
            assert row.coverage == (0 if own else 1), (name, tensor)
    # What has no place in the student is said: attention, and the second table of the tied head.
    unused = reports["language_model"].unused
    assert unused
    assert not any("vision_tower" in tensor or "projector" in tensor for tensor in unused)


def test_a_narrower_projector_follows_the_channels_of_both_towers():
    teacher, model = make(), student(d_vision=24, d_model=20)
    reports = subclone_llava(model, teacher, ALL, ALL)
    into, out = (torch.tensor(reports[name].channels) for name in ("vision_tower", "language_model"))
    units = torch.tensor(reports["multi_modal_projector"].hidden[0])
    theirs, ours = teacher.projector, model.multi_modal_projector
    assert len(set(units.tolist())) == 20
    torch.testing.assert_close(ours.linear_1.weight, math.sqrt(32 / 24) * theirs.linear_1.weight[units][:, into])
    torch.testing.assert_close(ours.linear_2.weight, math.sqrt(32 / 20) * theirs.linear_2.weight[out][:, units])
    assert torch.equal(ours.linear_2.bias, theirs.linear_2.bias[out])
    assert rows(reports["multi_modal_projector"])["linear_1.weight"].index == "20 of 32 units, 24 of 32 channels"


def test_the_teacher_sees_what_llava_sees():
    teacher, inputs = make(), batch()
    with torch.no_grad():
        expected = teacher.language.model(**inputs, output_hidden_states=True)
    output = teacher.language(inputs)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.features[0], expected.hidden_states[1])


def test_padding_does_not_count():
    teacher, model, inputs = make(), student(), batch()
    labels = inputs["input_ids"].masked_fill(torch.arange(9) < 6, -100)
    distiller = Distiller(model, teacher.language, DistillConfig(weighting="uniform"))
    expected = distiller.loss(inputs, labels)[1]
    mask = (torch.arange(12) < 9).expand(2, 12)
    longer = torch.cat([inputs["input_ids"], torch.randint(39, (2, 3))], dim=1)
    padded = {**inputs, "input_ids": longer, "attention_mask": mask}
    actual = distiller.loss(padded, torch.cat([labels, torch.full((2, 3), -100)], dim=1))[1]
    for name in ("total", "task", "feature", "kd"):
        torch.testing.assert_close(actual[name], expected[name])
        assert expected[name] > 0


def test_what_is_no_llava_is_refused():
    text = config().text_config
    with pytest.raises(ValueError, match="LlamaForCausalLM is no LLaVA: it has no vision_tower"):
        create_llava_teacher(text)
    with pytest.raises(ValueError, match="does not give the patches alone"):
        create_llava_teacher(config(vision_feature_select_strategy="full"))
    with pytest.raises(ValueError, match=r"must be one layer, got \[-2, -1\]"):
        create_llava_teacher(config(vision_feature_layer=[-2, -1]))
