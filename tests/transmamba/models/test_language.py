"""The language model: published names, shapes and counts; transformers' Mamba; generation from states."""

import pytest
import torch

from tests.transmamba.models.naive import assert_same, disturb, mamba
from transmamba.models import InferenceParams, create_model
from transmamba.models.sampling import sample


def small(**kwargs):
    torch.manual_seed(0)
    return create_model("transmamba_lm_micro", **{"d_model": 16, "depth": 2, "d_state": 3, "vocab_size": 21, **kwargs})


# state-spaces/mamba: config.json and tensors of the published checkpoints, tied weights counted once.
PUBLISHED = [
    ("mamba_130m", 768, 24, 129_135_360),
    ("mamba_370m", 1024, 48, 371_516_416),
    ("mamba_790m", 1536, 48, 793_204_224),
    ("mamba_1.4b", 2048, 48, 1_372_178_432),
    ("mamba_2.8b", 2560, 64, 2_768_345_600),
]


@pytest.mark.parametrize(("name", "d", "depth", "count"), PUBLISHED)
def test_published_names_shapes_and_counts(name, d, depth, count):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == count
    expected = {
        "backbone.embedding.weight": (50280, d),
        "backbone.norm_f.weight": (d,),
        "lm_head.weight": (50280, d),
    }
    for i in range(depth):
        mixer = f"backbone.layers.{i}.mixer"
        expected |= {
            f"backbone.layers.{i}.norm.weight": (d,),
            f"{mixer}.A_log": (2 * d, 16),
            f"{mixer}.D": (2 * d,),
            f"{mixer}.in_proj.weight": (4 * d, d),
            f"{mixer}.conv1d.weight": (2 * d, 1, 4),
            f"{mixer}.conv1d.bias": (2 * d,),
            f"{mixer}.x_proj.weight": (d // 16 + 32, 2 * d),
            f"{mixer}.dt_proj.weight": (2 * d, d // 16),
            f"{mixer}.dt_proj.bias": (2 * d,),
            f"{mixer}.out_proj.weight": (d, 2 * d),
        }
    assert {name: tuple(p.shape) for name, p in model.state_dict().items()} == expected


# Facts of the checkpoints' config.json on the hub.
@pytest.mark.parametrize(
    ("name", "d", "depth", "hidden", "vocabulary"),
    [
        ("transmamba_lm_tiny", 576, 30, 1536, 49152),
        ("transmamba_lm_small", 960, 32, 2560, 49152),
        ("transmamba_lm_base", 2048, 16, 8192, 128256),
    ],
)
def test_variants_have_the_shapes_of_their_teachers(name, d, depth, hidden, vocabulary):
    with torch.device("meta"):
        model = create_model(name)
    config = model.config
    assert (config.d_model, config.depth, config.d_hidden, config.num_classes) == (d, depth, hidden, vocabulary)
    assert model.backbone.layers[0].mlp.gate.weight.shape == (hidden, d)


@pytest.mark.parametrize("kwargs", [{"mlp_ratio": 0.0}, {"tie_embeddings": False}, {"mlp": "gelu", "norm": "layer"}])
def test_forward_and_gradients_are_the_model_written_out(kwargs):
    model = disturb(small(**kwargs).double())
    ids = torch.randint(21, (2, 6))
    x = model.backbone.embedding.weight[ids]
    for block in model.backbone.layers:
        m = block.mixer
        u, z = (part.mT for part in m.in_proj(block.norm(x)).chunk(2, dim=-1))
        x = x + m.out_proj(mamba(u, z, m.conv1d, m.x_proj, m.dt_proj, m.A_log, m.D).mT)
        if block.mlp is not None:
            h, p = block.norm2(x), block.mlp
            inner = torch.nn.functional.gelu(p.fc1(h))
            if model.config.mlp == "swiglu":
                inner = p.gate(h) * torch.sigmoid(p.gate(h)) * p.fc1(h)
            x = x + p.fc2(inner)
    assert_same(model, model(ids), model.backbone.norm_f(x) @ model.lm_head.weight.T)


def test_weights_of_transformers_load_and_give_its_logits():
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(hidden_size=16, state_size=3, num_hidden_layers=2, vocab_size=24)
    theirs = disturb(transformers.MambaForCausalLM(config)).eval()
    ours = small(mlp_ratio=0.0)
    state = {name: tensor for name, tensor in theirs.state_dict().items() if name != "lm_head.weight"}
    ours.load_state_dict(state)
    assert ours.lm_head.weight is ours.backbone.embedding.weight
    ids = torch.randint(21, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kwargs", [{}, {"mlp_ratio": 0.0}])
def test_states_give_the_logits_of_every_prefix(kwargs):
    model = disturb(small(**kwargs).double())
    ids = torch.randint(21, (2, 9))
    for prompt in (1, 4):
        params, logits = InferenceParams(), []
        for piece in (ids[:, :prompt], *ids[:, prompt:].split(1, dim=1)):
            logits.append(model(piece, params)[:, -1])
            params.seqlen_offset += piece.shape[1]
        for n, each in enumerate(logits, start=prompt):
            torch.testing.assert_close(each, model(ids[:, :n])[:, -1])


def test_greedy_generation_is_the_likeliest_token_of_each_prefix():
    model, ids = disturb(small().double()), torch.randint(21, (3, 5))
    expected = ids
    for _ in range(6):
        expected = torch.cat([expected, model(expected)[:, -1:, :21].argmax(-1)], dim=1)
    generated = model.generate(ids, 6)
    assert torch.equal(generated, expected)
    assert torch.equal(model.generate(ids, 6, temperature=2.0, top_k=1), expected)
    assert torch.equal(model.generate(ids, 6, temperature=2.0, top_p=1e-9), expected)
    assert generated.dtype == ids.dtype


def test_generation_is_repeatable_and_ends():
    model, ids = small(), torch.randint(21, (2, 3))
    runs = [
        model.generate(ids, 8, temperature=1.0, top_k=15, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    greedy = model.generate(ids, 8)
    end = greedy[0, 4].item()
    ended = model.generate(ids, 8, eos_token_id=end)
    for row, whole in zip(ended, greedy, strict=True):
        at = [t for t in range(3, 11) if whole[t] == end]
        last = at[0] if at else 10
        assert torch.equal(row[: last + 1], whole[: last + 1][: len(row)])
        assert (row[last + 1 :] == end).all()
    assert torch.equal(
        model.generate(ids[:1], 8, eos_token_id=end), greedy[:1, : greedy[0, 3:].tolist().index(end) + 4]
    )


def test_rows_beyond_the_vocabulary_are_never_generated():
    model = small()
    with torch.no_grad():
        model.lm_head.weight[21:] += 100
    assert model.config.num_classes == 24
    assert (model.generate(torch.randint(21, (2, 3)), 20, temperature=5.0) < 21).all()


def test_states_are_kept_in_float32():
    model = small().bfloat16()
    conv_state, ssm_state = model.allocate_states(2).key_value_memory_dict[1]
    assert (conv_state.dtype, ssm_state.dtype) == (torch.bfloat16, torch.float32)
    assert model.generate(torch.randint(21, (2, 3)), 4).shape == (2, 7)


def test_sampling_draws_from_the_stated_sets():
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]]).repeat(4000, 1)
    for options, tokens in (
        ({}, {0, 1, 2, 3}),
        ({"top_k": 2}, {1, 2}),
        ({"top_k": 9}, {0, 1, 2, 3}),
        ({"top_p": 0.64}, {1}),  # its probability is 0.644
        ({"top_p": 0.65}, {1, 2}),
        ({"top_k": 3, "top_p": 0.9}, {1, 2}),
        ({"temperature": 0.0}, {1}),
    ):
        assert set(sample(logits, **options).tolist()) == tokens, options
    counts = sample(logits, temperature=2.0).bincount() / len(logits)
    torch.testing.assert_close(counts, (logits[0] / 2).softmax(-1), rtol=0.15, atol=0.01)


@pytest.mark.parametrize(
    "wrong",
    [{"vocab_size": 0}, {"depth": 0}, {"mlp_ratio": -1.0}, {"mlp": "relu"}, {"norm": "batch"}, {"d_model": 0}],
)
def test_bad_config(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        small(**wrong)


def test_bad_input():
    model, ids = small(), torch.randint(21, (2, 3))
    with pytest.raises(TypeError, match="input_ids"):
        model(torch.randn(2, 3))
    with pytest.raises(ValueError, match="at least one token"):
        model.generate(ids[:, :0], 3)
    with pytest.raises(ValueError, match="max_new_tokens"):
        model.generate(ids, 0)
    for wrong in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            model.generate(ids, 3, **wrong)
