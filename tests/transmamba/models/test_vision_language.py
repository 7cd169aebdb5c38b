"""The vision-language model: what the language model reads, answers from states, saving, bad input."""

import pytest
import torch

from tests.transmamba.models.naive import disturb
from transmamba.models import create_model, load_pretrained, save_pretrained

IMAGE = 21  # the first id behind the vocabulary


def small(vision="transmamba_vim_micro", **tower):
    torch.manual_seed(0)
    sizes = {"d_model": 12, "depth": 2, "d_state": 3, "image_size": 4, **tower}
    text = {"d_model": 16, "depth": 2, "d_state": 3, "vocab_size": 21}
    options = {"vision_options": sizes, "language": "transmamba_lm_micro", "language_options": text}
    return disturb(create_model("transmamba_vlm_micro", vision=vision, **options).double()).eval()


def question(images=2):
    """Two rows of text around one image of 2 x 2 patches each."""
    ids = torch.randint(21, (images, 9))
    ids[:, 2:6] = IMAGE
    return {"input_ids": ids, "pixel_values": torch.randn(images, 1, 4, 4, dtype=torch.float64)}


@pytest.mark.parametrize(
    ("vision", "tower"),
    [
        ("transmamba_vim_micro", {}),
        ("transmamba_vim_micro", {"class_token": "middle"}),
        ("transmamba_plainmamba_micro", {}),
    ],
)
def test_the_image_stands_in_place_of_its_tokens(vision, tower):
    model, inputs = small(vision, **tower), question()
    seen = model.vision_tower.forward_tokens(inputs["pixel_values"])
    assert seen.shape == (2, 4, 12)
    lm, ids = model.language_model, inputs["input_ids"]
    embedding = lm.backbone.embedding.weight
    embeds = torch.cat([embedding[ids[:, :2]], model.multi_modal_projector(seen), embedding[ids[:, 6:]]], dim=1)
    torch.testing.assert_close(model(inputs), lm.head(lm.forward_features(None, inputs_embeds=embeds)))
    text = {"input_ids": ids[:, 6:]}
    torch.testing.assert_close(model(text), lm(ids[:, 6:]))
    model(inputs).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.multi_modal_projector.parameters())
    assert next(model.vision_tower.parameters()).grad.abs().sum() > 0


def test_answers_are_the_likeliest_tokens_of_each_prefix():
    model, inputs = small(), question()
    expected = dict(inputs)
    for _ in range(4):
        latest = model(expected)[:, -1:, :21].argmax(-1)
        expected["input_ids"] = torch.cat([expected["input_ids"], latest], dim=1)
    assert torch.equal(model.generate(inputs, 4), expected["input_ids"])
    other = {**inputs, "pixel_values": 3 * torch.randn(2, 1, 4, 4, dtype=torch.float64)}
    assert not torch.equal(model.generate(other, 8), model.generate(inputs, 8))


def test_a_saved_model_comes_back(tmp_path):
    model, inputs = small().float(), question()
    inputs["pixel_values"] = inputs["pixel_values"].float()
    save_pretrained(model, tmp_path)
    assert torch.equal(load_pretrained(tmp_path)(inputs), model(inputs))


def test_published_sizes():
    with torch.device("meta"):
        tiny = create_model("transmamba_vlm_tiny")
        base = create_model("transmamba_vlm_base")
    assert (tiny.tokens_per_image, tiny.vision_tower.config.d_model, tiny.config.num_classes) == (196, 768, 49152)
    assert (base.tokens_per_image, base.config.d_model, base.multi_modal_projector.linear_1.in_features) == (
        576,
        2048,
        1024,
    )


def test_bad_input():
    model, inputs = small(), question()
    with pytest.raises(ValueError, match="input_ids must hold the image token 21 4 times for each of 1 images"):
        model({**inputs, "pixel_values": inputs["pixel_values"][:1]})
    with pytest.raises(ValueError, match="of 0 images"):
        model({"input_ids": inputs["input_ids"]})
    with pytest.raises(ValueError, match="language must be a language model"):
        create_model("transmamba_vlm_micro", language="transmamba_vim_micro")
    with pytest.raises(ValueError, match="vision must be a student for images"):
        create_model("transmamba_vlm_micro", vision="transmamba_lm_micro")
    with pytest.raises(TypeError, match="no option wide"):
        create_model("transmamba_vlm_micro", vision_options={"wide": 3})
