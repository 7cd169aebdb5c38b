"""Mixers that start as the attention they replace, by formula."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.transmamba.distill.cloned import rows, values, vo
from transmamba.distill import SubcloneConfig, subclone
from transmamba.distill.attention import read_attention
from transmamba.models import create_model
from transmamba.teachers import create_teacher

transformers = pytest.importorskip("transformers")


def linear_attention(x, W_V, b_V, W_O, b_O, B, C, directions, D=1.0):
    """What the formula says, in plain PyTorch: ``x`` (batch, L, d), ``B`` and ``C`` per direction (batch, L, N)."""
    v, length = F.linear(x, W_V, b_V), x.shape[1]
    total = 0.0
    for k in range(directions):
        seen = torch.ones(length, length, dtype=x.dtype).tril()
        seen = seen if k == 0 else seen.t()
        total = total + (C[k] @ B[k].transpose(1, 2) * seen) @ v / length + D * v
    return F.linear(total, W_O, b_O)


def scan_parameters(mixer, x, names):
    """B and C of each direction from the mixer's own convolved input."""
    u = F.silu(mixer.in_proj(x)[..., : mixer.d_inner])
    B, C = [], []
    for name in names:
        projected = getattr(mixer, name)(u)
        _, b, c = projected.split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
        B.append(b)
        C.append(c)
    return B, C


def test_vo_makes_a_vim_mixer_a_linear_attention(make_teacher, make_student):
    teacher, student = make_teacher(), make_student(bias=True)
    subclone(student, teacher, vo())
    student.double()
    x = torch.randn(2, 17, 16, dtype=torch.double)
    for i in range(3):
        mixer, attention = student.layers[i].mixer, read_attention(teacher, i)
        B, C = scan_parameters(mixer, x, ["x_proj", "x_proj_b"])
        expected = linear_attention(
            x,
            attention.value,
            attention.value_bias,
            attention.proj / 2,
            attention.proj_bias,
            B,
            C,
            2,
        )
        torch.testing.assert_close(mixer(x), expected, rtol=1e-4, atol=1e-5)


def test_qkvo_takes_queries_and_keys_with_one_index_set_per_head(make_teacher, make_student):
    teacher, student = make_teacher(), make_student(bias=True, d_state=6)
    teacher.part("value", 1).bias.data.zero_()
    nn.init.orthogonal_(teacher.part("value", 1).weight)  # the values determine the input
    report = subclone(student, teacher, vo("qkvo"))
    student.double()
    x = torch.randn(2, 17, 16, dtype=torch.double)
    attention = read_attention(teacher, 1)
    kept = []
    for h in range(2):
        rows_of_head = slice(8 * h, 8 * h + 8)
        strength = attention.query[rows_of_head].norm(dim=1) * attention.key[rows_of_head].norm(dim=1)
        kept += [8 * h + c for c in sorted(strength.topk(3).indices.tolist())]
    B, C = scan_parameters(student.layers[1].mixer, x, ["x_proj", "x_proj_b"])
    for k in range(2):
        torch.testing.assert_close(B[k], F.linear(x, attention.key[kept]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(C[k], math.sqrt(8) / 6 * F.linear(x, attention.query[kept]), rtol=1e-4, atol=1e-4)
    row = rows(report)["layers.1.mixer.x_proj_b.weight"]
    assert row.source == "vit.layers.1.attention.q_proj.weight + vit.layers.1.attention.k_proj.weight"
    assert row.index == "6 of 16 queries and keys"
    assert not [name for name in report.unused if "layers.1.attention" in name and name.endswith("weight")]


def test_all_states_of_all_heads_estimate_the_mean_logit(make_teacher, make_student):
    teacher, student = make_teacher(), make_student(bias=True, d_state=20)
    teacher.part("value", 0).bias.data.zero_()
    nn.init.orthogonal_(teacher.part("value", 0).weight)  # the values determine the input
    subclone(student, teacher, vo("qkvo"))
    student.double()
    x, attention = torch.randn(1, 17, 16, dtype=torch.double), read_attention(teacher, 0)
    B, C = scan_parameters(student.layers[0].mixer, x, ["x_proj"])
    q, k = F.linear(x, attention.query), F.linear(x, attention.key)
    logits = [q[..., 8 * h : 8 * h + 8] @ k[..., 8 * h : 8 * h + 8].transpose(1, 2) / math.sqrt(8) for h in range(2)]
    torch.testing.assert_close(C[0] @ B[0].transpose(1, 2), sum(logits) / 2, rtol=1e-3, atol=1e-3)


def test_least_squares_where_the_values_do_not_determine_the_input(make_teacher, make_student):
    """Narrower: 6 of 16 values of 12 channels; the residual is orthogonal to what x spans."""
    teacher, student = make_teacher(), make_student(bias=True, d_model=12, expand=1, d_state=4)
    report = subclone(student, teacher, vo("qkvo", importance="magnitude"))
    mixer, attention = student.layers[0].mixer, read_attention(teacher, report.layer_map[0])
    channels = torch.tensor(report.channels)
    x = mixer.in_proj.weight[:6].double()
    kept_values = (attention.value.norm(dim=1) * attention.proj.norm(dim=0)).topk(6).indices.sort().values
    torch.testing.assert_close(x, math.sqrt(16 / 12) * attention.value[kept_values][:, channels], rtol=1e-5, atol=1e-6)
    assert torch.equal(mixer.in_proj.weight[6:12], -mixer.in_proj.weight[:6])
    wide = mixer.out_proj.weight[:, :6].double()
    torch.testing.assert_close(wide, math.sqrt(16 / 6) * attention.proj[channels][:, kept_values], rtol=1e-5, atol=1e-6)
    B = mixer.x_proj.weight[mixer.dt_rank : mixer.dt_rank + 4]
    kept = torch.cat(
        [
            8 * h
            + (attention.query[8 * h : 8 * h + 8].norm(dim=1) * attention.key[8 * h : 8 * h + 8].norm(dim=1))
            .topk(2)
            .indices.sort()
            .values
            for h in range(2)
        ]
    )
    left = B[:, :6].double() @ x - math.sqrt(16 / 12) * attention.key[kept][:, channels]
    torch.testing.assert_close(left @ x.t(), torch.zeros(4, 6, dtype=torch.double), rtol=0, atol=1e-5)
    row = rows(report)["layers.0.mixer.in_proj.weight"]
    assert row.index == "6 of 16 values, 12 of 16 channels"
    assert row.coverage == pytest.approx(0.5)
    error = (left.norm() / (math.sqrt(16 / 12) * attention.key[kept][:, channels]).norm()).item()
    assert 0.1 < error < 1


def test_plainmamba_starts_alike(make_teacher):
    teacher = make_teacher()
    torch.manual_seed(1)
    student = create_model("transmamba_plainmamba_micro", d_model=16, depth=3, d_state=3, mlp_ratio=1.5, num_classes=5)
    subclone(student, teacher, vo())
    student.double()
    mixer, attention = student.backbone.layers[1].mamba, read_attention(teacher, 1)
    x = torch.randn(1, 16, 16, dtype=torch.double)
    _, each = mixer(x, return_directions=True)
    B, C = scan_parameters(mixer, x, ["x_proj"])
    orders = mixer.orders
    for k in range(4):
        walked = orders[k]
        moved = mixer.direction_Bs[mixer.moves[k]]
        b, c, h = (B[0] + moved)[:, walked], C[0][:, walked], x[:, walked]
        bias = attention.value_bias
        own = linear_attention(h, attention.value, bias, 4 * attention.proj, attention.proj_bias, [b], [c], 1)
        torch.testing.assert_close(each[k][:, walked], own, rtol=1e-4, atol=1e-5)


def test_vmamba_starts_alike_up_to_its_norm(make_teacher):
    teacher = make_teacher()
    torch.manual_seed(1)
    student = create_model(
        "transmamba_vmamba_micro", dims=(16, 20), depths=(2, 1), expand=2.0, d_state=2, num_classes=5
    )
    report = subclone(student, teacher, vo())
    student.double()
    mixer, attention = student.layers[0].blocks[1].op, read_attention(teacher, report.layer_map[1])
    heard = []
    mixer.out_norm.register_forward_pre_hook(lambda _m, args: heard.append(args[0]))
    mixer(torch.randn(1, 16, 16, dtype=torch.double))
    y = heard[0]
    expected = F.linear(
        (y[..., :16] - y[..., 16:]) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt(), attention.proj
    )
    torch.testing.assert_close(mixer.out_proj(mixer.out_norm(y)), expected, rtol=1e-4, atol=1e-5)
    assert rows(report)["layers.0.blocks.1.op.dt_projs_bias"].note == "step size 1/16"
    assert rows(report)["layers.1.blocks.0.op.dt_projs_bias"].note == "step size 1/4"


def test_a_llama_with_shared_heads_starts_a_language_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    teacher = create_teacher(transformers.LlamaConfig(**sizes, intermediate_size=24, vocab_size=20))
    attention = read_attention(teacher, 1)
    shared = teacher.part("value", 1).weight.double()
    for head in range(4):
        assert torch.equal(attention.value[4 * head : 4 * head + 4], shared[4 * (head // 2) : 4 * (head // 2) + 4])
    shape = {"d_model": 16, "depth": 2, "d_state": 3, "mlp_ratio": 1.5, "vocab_size": 20, "pad_vocab_size_multiple": 1}
    student = create_model("transmamba_lm_micro", **shape, bias=True)
    with pytest.raises(ValueError, match="language model need images, token ids"):
        subclone(student, teacher, vo("qkvo"))
    ids = torch.randint(20, (2, 9))
    report = subclone(student, teacher, vo("vo"), [ids])
    assert rows(report)["backbone.layers.1.mixer.dt_proj.bias"].note == "step size 1/9"
    student.double()
    mixer, x = student.backbone.layers[1].mixer, torch.randn(2, 9, 16, dtype=torch.double)
    B, C = scan_parameters(mixer, x, ["x_proj"])
    zero = torch.zeros(16, dtype=torch.double)
    bias = mixer.out_proj.bias.detach()  # a Llama has none
    expected = linear_attention(x, attention.value, zero, attention.proj, bias, B, C, 1)
    torch.testing.assert_close(mixer(x), expected, rtol=1e-4, atol=1e-5)


def test_only_early_layers_and_a_row_for_every_tensor(make_teacher, make_student, images):
    teacher, student = make_teacher(), make_student(bias=True)
    before = values(student)
    report = subclone(student, teacher, SubcloneConfig(mixer="vo"), [images])
    found = rows(report)
    assert json.loads(json.dumps(report.to_dict()))["settings"]["mixer"] == "vo"
    for name in found:
        if name.startswith("layers.2.mixer") and "out_proj" not in name:
            assert torch.equal(dict(student.named_parameters())[name], before[name])
    assert found["layers.0.mixer.D"].note.startswith("part of the SSM")
    assert torch.equal(student.layers[0].mixer.D, before["layers.0.mixer.D"])
    row = found["layers.0.mixer.out_proj.weight"]
    exact = read_attention(teacher, 0).proj
    torch.testing.assert_close(student.layers[0].mixer.out_proj.weight[:, :16].double(), row.scale * exact)
    assert row.note.startswith("O and -O; scaled to vary as much as")
    assert row.coverage == 1


def test_a_wider_student_keeps_its_pairs(make_teacher, make_student):
    teacher, student = make_teacher(), make_student(bias=True, d_model=20)
    subclone(student, teacher, vo())
    mixer, attention = student.layers[0].mixer, read_attention(teacher, 0)
    torch.testing.assert_close(mixer.in_proj.weight[:16, 2:18].double(), attention.value, rtol=1e-6, atol=1e-6)
    for weight, dim in ((mixer.in_proj.weight[:32], 0), (mixer.out_proj.weight[:, :32], 1)):
        first, second = weight.chunk(2, dim)
        assert torch.equal(first, -second)


def test_the_start_learns(make_teacher, make_student, images):
    teacher, student = make_teacher(), make_student(bias=True)
    subclone(student, teacher, SubcloneConfig(mixer="qkvo"), [images])
    student(images).square().sum().backward()
    assert [n for n, p in student.named_parameters() if not (p.grad.isfinite().all() and p.grad.any())] == []


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("transmamba_vim_micro", {}, "vo", "needs a bias in the mixers of student transmamba_vim_micro"),
        (
            "transmamba_plainmamba_micro",
            {"permute_params": False},
            "qkvo",
            "transmamba_plainmamba_micro with permute_p",
        ),
    ],
)
def test_students_that_cannot_start_so_are_named(make_teacher, name, options, kind, message):
    student = create_model(name, **options)
    before = values(student)
    with pytest.raises(ValueError, match=message):
        subclone(student, make_teacher(), SubcloneConfig(mixer=kind))
    assert all(torch.equal(p, before[n]) for n, p in student.named_parameters())
