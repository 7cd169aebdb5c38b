"""The text encoder: written out, padding, pooling, shapes of its teachers, cloning from a BERT and a CLIP."""

import pytest
import torch
import torch.nn.functional as F

from tests.transmamba.models.naive import assert_same, disturb, mlp
from transmamba.distill import SubcloneConfig, subclone
from transmamba.models import create_model
from transmamba.teachers import create_teacher


def small(**kwargs):
    torch.manual_seed(0)
    shape = {"d_model": 16, "depth": 2, "d_state": 3, "vocab_size": 21, "max_length": 9, "token_types": 2}
    return create_model("transmamba_text_micro", **{**shape, **kwargs})


@pytest.mark.parametrize("kwargs", [{}, {"embedding_norm": False, "pooling": "last"}])
def test_forward_and_gradients_are_the_model_written_out(kwargs):
    model, ids = disturb(small(**kwargs).double()), torch.randint(21, (2, 6))
    x = model.embedding.weight[ids] + model.pos_embed[0, :6] + model.token_type.weight[0]
    x = x if model.norm_e is None else model.norm_e(x)
    for block in model.layers:
        h = x + block.mixer(block.norm(x))
        x = h + mlp(block, h)
    x = model.norm_f(x)
    pooled = x.mean(1) if model.config.pooling == "mean" else x[:, -1]
    out = model(ids)
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(2, dtype=torch.double))
    assert_same(model, out, pooled / pooled.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_sentence_is_the_same_whatever_its_padding(pooling):
    model, ids = disturb(small(pooling=pooling).double()), torch.randint(1, 21, (3, 4))
    behind, before = F.pad(ids, (0, 3), value=5), F.pad(ids, (2, 1), value=7)
    tokens = model.forward_features(ids)
    for padded, first in ((behind, 0), (before, 2)):
        mask = torch.zeros(3, 7, dtype=torch.int64)
        mask[:, first : first + 4] = 1
        torch.testing.assert_close(model(padded, attention_mask=mask), model(ids))
        seen = model.forward_features(padded, attention_mask=mask)
        torch.testing.assert_close(seen[:, first : first + 4], tokens)
        torch.testing.assert_close(model.head(seen, mask), model.head(tokens))


# Facts of the checkpoints' config.json on the hub.
@pytest.mark.parametrize(
    ("name", "d", "depth", "hidden"),
    [
        ("transmamba_text_tiny", 256, 4, 1024),
        ("transmamba_text_small", 384, 6, 1536),
        ("transmamba_text_base", 768, 12, 3072),
    ],
)
def test_variants_have_the_shapes_of_their_teachers(name, d, depth, hidden):
    with torch.device("meta"):
        model = create_model(name)
    assert model.embedding.weight.shape == (30522, d)
    assert model.pos_embed.shape == (1, 512, d)
    assert len(model.layers) == depth
    assert model.layers[0].mlp.fc1.weight.shape == (hidden, d)


def test_tables_and_norms_come_from_a_bert():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = disturb(transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=21, max_position_embeddings=12)))
    student = small()
    subclone(student, create_teacher(model), SubcloneConfig(early=2, mixer_scale=False))
    theirs = model.embeddings
    assert torch.equal(student.embedding.weight, theirs.word_embeddings.weight)
    assert torch.equal(student.pos_embed[0], theirs.position_embeddings.weight[:9])
    assert torch.equal(student.token_type.weight, theirs.token_type_embeddings.weight)
    assert torch.equal(student.norm_e.weight, theirs.LayerNorm.weight)
    assert torch.equal(student.norm_f.bias, model.encoder.layer[1].output.LayerNorm.bias)
    assert torch.equal(student.layers[1].norm2.bias, model.encoder.layer[1].attention.output.LayerNorm.bias)


def test_bad_input():
    model = small()
    with pytest.raises(TypeError, match="input_ids"):
        model(torch.randn(2, 3))
    with pytest.raises(ValueError, match="at most max_length = 9 tokens long, got 10"):
        model(torch.zeros(2, 10, dtype=torch.int64))
    for wrong in ({"pooling": "max"}, {"max_length": 0}, {"token_types": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            small(**wrong)
