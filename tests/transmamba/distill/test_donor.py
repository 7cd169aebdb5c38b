"""Scans taken from another Mamba: what is taken, what does not fit, and what the report says."""

import pytest
import torch

from tests.transmamba.distill.cloned import rows, values, vo
from transmamba.distill import subclone
from transmamba.distill.attention import read_attention
from transmamba.models import create_model, save_pretrained

pytest.importorskip("transformers")
pytest.importorskip("safetensors")


def donor(folder, **options):
    torch.manual_seed(7)
    shape = {"d_model": 16, "depth": 2, "d_state": 3, "vocab_size": 20, "pad_vocab_size_multiple": 1}
    model = create_model("transmamba_lm_micro", **{**shape, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_pretrained(model, folder)
    return model


@pytest.mark.parametrize("kind", ["none", "vo"])
def test_scans_come_from_another_mamba(make_teacher, make_student, tmp_path, kind):
    given, teacher, student = donor(tmp_path / "lm"), make_teacher(), make_student(bias=kind == "vo")
    before = values(student)
    report = subclone(student, teacher, vo(kind, ssm_from=str(tmp_path / "lm")))
    found = rows(report)
    for i, t in enumerate([0, 0, 1]):  # round((i + 1) 2/3) - 1
        mixer, theirs = student.layers[i].mixer, given.backbone.layers[t].mixer
        for ours, source in (("A_log", "A_log"), ("A_b_log", "A_log"), ("D_b", "D")):
            assert torch.equal(getattr(mixer, ours), getattr(theirs, source))
        for ours, source in (("dt_proj_b", "dt_proj"), ("conv1d", "conv1d")):
            assert torch.equal(getattr(mixer, ours).weight, getattr(theirs, source).weight)
            assert torch.equal(getattr(mixer, ours).bias, getattr(theirs, source).bias)
        rank = mixer.dt_rank
        assert torch.equal(mixer.x_proj_b.weight[:rank], theirs.x_proj.weight[:rank])
        assert torch.equal(mixer.x_proj_b.weight[rank:], before[f"layers.{i}.mixer.x_proj_b.weight"][rank:])
        assert torch.equal(mixer.in_proj.weight[32:], theirs.in_proj.weight[32:])
        x = (
            read_attention(teacher, i).value.float()
            if kind == "vo"
            else before[f"layers.{i}.mixer.in_proj.weight"][:16]
        )
        torch.testing.assert_close(mixer.in_proj.weight[:16], x)
        if kind == "vo":
            assert not mixer.in_proj.bias[32:].any()
    row = found["layers.2.mixer.A_b_log"]
    assert (row.source, row.coverage, row.note) == ("ssm_from:backbone.layers.1.mixer.A_log", 1.0, "")
    row = found["layers.0.mixer.in_proj.weight"]
    assert row.source.endswith("ssm_from:backbone.layers.0.mixer.in_proj.weight")
    assert row.coverage == (1 if kind == "vo" else 0.5)


def test_a_step_size_whose_bias_counts_twice_stays_the_same(make_teacher, tmp_path):
    given = donor(tmp_path / "lm", depth=1)
    shape = {"d_model": 16, "depth": 1, "d_state": 3, "num_classes": 5}
    student = create_model("transmamba_plainmamba_micro", **shape, double_dt_bias=True)
    found = rows(subclone(student, make_teacher(), vo("none", ssm_from=str(tmp_path / "lm"))))
    mixer = student.backbone.layers[0].mamba
    torch.testing.assert_close(2 * mixer.dt_proj.bias, given.backbone.layers[0].mixer.dt_proj.bias)
    assert "ssm_from has no conv2d.weight" in found["backbone.layers.0.mamba.conv2d.weight"].note


def test_what_a_donor_does_not_have_is_said(make_teacher, make_student, tmp_path):
    donor(tmp_path / "lm", d_conv=3)
    found = rows(subclone(make_student(), make_teacher(), vo("none", ssm_from=str(tmp_path / "lm"))))
    assert "ssm_from has conv1d.weight of shape (32, 1, 3)" in found["layers.0.mixer.conv1d_b.weight"].note
    donor(tmp_path / "wide", d_model=24)
    for bias in (False, True):
        student = make_student(bias=bias, d_state=4)
        before = values(student)
        with pytest.raises(ValueError, match="nothing of transmamba_lm_micro fits"):
            subclone(student, make_teacher(), vo("none", ssm_from=str(tmp_path / "wide")))
        assert all(torch.equal(p, before[n]) for n, p in student.named_parameters())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        subclone(make_student(), make_teacher(), vo("none", ssm_from=str(tmp_path / "nowhere")))
