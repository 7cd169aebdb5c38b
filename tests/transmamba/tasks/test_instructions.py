"""Visual instructions: what is read, what is learned from, errors that count, and a model that learns to answer."""

import json

import pytest
import torch

from transmamba.config import OptimConfig
from transmamba.models import create_model
from transmamba.tasks.instructions import Instructions, answer_accuracy, answer_loss, generate_answers, read_image
from transmamba.train import Plan, Trainer, plain

transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

WORDS = ["<s>", "</s>", "USER:", "ASSISTANT:", "what", "is", "it", "?", "dark", "light", "no", "one"]
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} "
    "{% else %}ASSISTANT: {{ m['content'] }} </s> "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
END, USER, ASSISTANT, WHAT, IS, IT = range(1, 7)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    made.chat_template = CHAT
    return made


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model(
        "transmamba_vlm_micro",
        vision_options={"image_size": 4, "d_model": 16, "depth": 1, "in_channels": 3},
        language_options={"vocab_size": len(WORDS), "d_model": 16, "depth": 2},
    )


def entry(image, *turns):
    talk = [{"from": ("human", "gpt")[i % 2], "value": turn} for i, turn in enumerate(turns)]
    return {"conversations": talk, **({"image": image} if image else {})}


@pytest.fixture
def write(tmp_path):
    for name, grey in (("dark.png", 20), ("light.png", 230)):
        Image.new("RGB", (6, 3), (grey, grey, grey)).save(tmp_path / name)

    def make(*entries):
        (tmp_path / "talk.json").write_text(json.dumps(entries))
        return tmp_path / "talk.json", tmp_path

    return make


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_only_answers_are_learned(template, tokenizer, model, write):
    talk = entry("dark.png", "<image>\nwhat is it", "dark", "is it one", "no")
    data = Instructions(*write(talk, entry(None, "what", "one")), tokenizer, model, template)
    ids, labels, mask, pixels = data[[0, 1]]
    image = [model.image_token_id] * model.tokens_per_image
    dark, no, one = (WORDS.index(word) for word in ("dark", "no", "one"))
    # After the chat template's separator this tokenizer sees what it sees after LLaVA's.
    expected = [USER, *image, WHAT, IS, IT, ASSISTANT, dark, END, USER, IS, IT, one, ASSISTANT, no, END]
    assert ids[0].tolist() == expected
    learned = [(t, labels[0, t].item()) for t in range(len(expected)) if labels[0, t] != -100]
    assert learned == [(8, dark), (9, END), (15, no), (16, END)]
    assert ids[1].tolist()[:5] == [USER, WHAT, ASSISTANT, one, END]
    assert mask.sum(1).tolist() == [18, 5]
    assert (labels[1] != -100).sum() == 2
    assert not pixels[1].any()
    assert torch.equal(pixels[0], read_image(write()[1] / "dark.png", 4))
    loss = answer_loss(model, ids, labels, mask, pixels)
    alone = [answer_loss(model, *data[[i]]) for i in (0, 1)]
    torch.testing.assert_close(loss, (4 * alone[0] + 2 * alone[1]) / 6)
    question = data.question("what is it", write()[1] / "dark.png")
    assert question["input_ids"][0].tolist() == expected[: data.samples[0].prompt]


def test_it_learns_to_answer(tokenizer, model, write):
    talk = [entry(f"{word}.png", "<image> what is it ?", word) for word in ("dark", "light")]
    data = Instructions(*write(*talk), tokenizer, model)
    plan = Plan("llava", data, 40, 2, 0, OptimConfig(learning_rate=1e-2))
    measured = []
    trainer = Trainer(plan, model, plain(lambda *batch: answer_loss(model, *batch)), lambda: {"accuracy": 0.0})
    measured.append(answer_accuracy(model, data, 3)["accuracy"])
    trainer.run()
    measured.append(answer_accuracy(model, data, 3)["accuracy"])
    assert measured == [0.0, 1.0]
    assert generate_answers(model, data, 3) == ["dark", "light"]


def test_missing_images_are_counted(tokenizer, model, write):
    talk = [entry(f"{i // 2}.png", "<image> what", "no") for i in range(5)]
    with pytest.raises(FileNotFoundError, match=r"3 images of 5 of 6 conversations in .* are missing, .*0\.png first"):
        Instructions(*write(*talk, entry("dark.png", "<image>", "dark")), tokenizer, model)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": "dark.png"}, "entry 0 of .* must have 'conversations'"),
        (entry(None, "what"), "questions and answers in turn"),
        (entry("dark.png", "what", "no"), "has 1 image, but <image> is there 0 times"),
        (entry(None, "<image>", "no"), "has 0 image, but <image> is there 1 times"),
        ({"conversations": [{"from": "gpt", "value": "a"}] * 2}, "turn 0 must be {'from': 'human'"),
        (entry(None, " ".join(["what"] * 9), "no"), "max_length must be above 11"),
    ],
)
def test_bad_entries(wrong, message, tokenizer, model, write):
    with pytest.raises(ValueError, match=message):
        Instructions(*write(wrong), tokenizer, model, max_length=8)


def test_bad_files(tokenizer, model, write, tmp_path):
    with pytest.raises(FileNotFoundError, match="in LLaVA's layout"):
        Instructions(tmp_path / "none.json", tmp_path, tokenizer, model)
    (tmp_path / "broken.json").write_text("[")
    with pytest.raises(ValueError, match="is not valid JSON"):
        Instructions(tmp_path / "broken.json", tmp_path, tokenizer, model)
    with pytest.raises(ValueError, match="template must be one of"):
        Instructions(*write(entry(None, "what", "no")), tokenizer, model, "alpaca")
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(ValueError, match=r"no\.png cannot be read as an image"):
        read_image(tmp_path / "no.png", 4)
