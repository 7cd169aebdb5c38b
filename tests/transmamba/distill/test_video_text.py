"""Two towers and a CLIP: losses by hand, what is cloned, and that the student comes nearer."""

import pytest
import torch

from transmamba.distill import DistillConfig, SubcloneConfig
from transmamba.distill.losses import contrastive_loss, similarity_loss
from transmamba.distill.video_text import VideoTextDistiller, subclone_video_text
from transmamba.models import VideoText, create_model, load_pretrained, save_pretrained
from transmamba.teachers import create_clip

SIZES = {"d_model": 16, "depth": 2, "d_state": 3}


def test_contrastive_loss_by_hand():
    s = torch.tensor([[2.0, 0.5], [1.0, -1.0]], dtype=torch.double)
    e = s.exp()
    rows = (e.diag() / e.sum(1)).log()
    columns = (e.diag() / e.sum(0)).log()
    assert contrastive_loss(s).item() == pytest.approx(-(rows.sum() + columns.sum()).item() / 4)
    assert contrastive_loss(torch.zeros(8, 8)).item() == pytest.approx(torch.tensor(8.0).log().item())
    assert torch.isfinite(contrastive_loss(100 * torch.eye(4, dtype=torch.bfloat16)))
    with pytest.raises(ValueError, match=r"must be square, got \(2, 3\)"):
        contrastive_loss(torch.zeros(2, 3))


def test_similarity_loss_is_least_where_both_agree():
    teacher = torch.randn(5, 5, dtype=torch.double, requires_grad=True)
    student = teacher.detach().clone().requires_grad_()
    similarity_loss(student, teacher).backward()
    assert student.grad.abs().max() < 1e-12
    assert teacher.grad is None
    assert similarity_loss(student.detach().roll(1, 0), teacher) > 0


@pytest.fixture
def clip():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    return create_clip(
        transformers.CLIPConfig(
            text_config={
                **shared,
                "num_hidden_layers": 2,
                "vocab_size": 20,
                "max_position_embeddings": 10,
                **{f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "sep", "eos"))},
            },
            vision_config={**shared, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8, "num_channels": 1},
            projection_dim=12,
        )
    )


def student(d_model=16):
    torch.manual_seed(1)
    sizes = {**SIZES, "d_model": d_model, "mlp_ratio": 32 / d_model}
    video = {"image_size": 16, "patch_size": 8, "in_channels": 1, "num_frames": 4, "tubelet_size": 2, **sizes}
    video |= {"embedding_norm": True, "class_token": "none"}
    text = {"vocab_size": 20, "max_length": 10, "token_types": 0, "embedding_norm": False, **sizes}
    return create_model("transmamba_video_text_micro", video_options=video, text_options=text, d_embed=12)


def batch():
    ids = torch.randint(4, 20, (6, 7))
    ids[:, 0], ids[:, -1] = 1, 3
    ids[::2, -3:] = torch.tensor([3, 0, 0])
    return torch.randn(6, 1, 4, 16, 16), ids, (ids != 0).long()


def test_a_clip_is_the_mean_over_frames(clip):
    clips, ids, mask = batch()
    seen = clip(clips, ids, mask)
    frames = clip.model.visual_projection(clip.model.vision_model(pixel_values=clips[2].transpose(0, 1)).pooler_output)
    mean = torch.nn.functional.normalize(frames, dim=-1).mean(0)
    torch.testing.assert_close(seen.video[2], mean / mean.norm())
    assert seen.grid == (4, 2, 2)
    assert [f.shape for f in seen.video_features] == [(6, 16, 16)] * 2
    assert [f.shape for f in seen.text_features] == [(6, 7, 16)] * 2
    assert not seen.text.requires_grad
    # Which frame comes first it cannot know; padding it does not see.
    torch.testing.assert_close(clip(clips.flip(2), ids, mask).video, seen.video)
    torch.testing.assert_close(clip(clips, ids[:, :5], mask[:, :5]).text[::2], seen.text[::2])


@pytest.mark.parametrize("d_model", [16, 8, 20])
def test_both_towers_are_cloned(clip, d_model):
    model = student(d_model)
    clips, ids, _ = batch()
    video, text = subclone_video_text(model, clip, SubcloneConfig(early=2), [clips], [ids])
    rows = {f"{name}.{row.tensor}": row for name, report in (("v", video), ("t", text)) for row in report.rows}
    for name in ("v.norm_e.weight", "v.pos_embed", "v.head.weight", "v.layers.1.mlp.fc1.weight", "t.embedding.weight"):
        assert rows[name].source, name
        assert rows[name].coverage == pytest.approx(min(1, 16 / d_model)), name
    if d_model == 16:
        assert torch.equal(model.text_projection.weight, clip.model.text_projection.weight)
        assert torch.equal(model.video.head.weight, clip.model.visual_projection.weight)
    assert model.logit_scale == clip.model.logit_scale
    with pytest.raises(ValueError, match="d_embed must be the teacher's 12, got 64"):
        subclone_video_text(create_model("transmamba_video_text_micro"), clip)


@pytest.mark.parametrize(("alpha", "kappa", "term"), [(1.0, 0.0, "feature"), (0.0, 1.0, "kd")])
def test_distillation_draws_both_towers_to_the_clip(clip, alpha, kappa, term):
    model, data = student(), batch()
    channels = [report.channels for report in subclone_video_text(model, clip, None, [data[0]], [data[1]])]
    distiller = VideoTextDistiller(model, clip, DistillConfig(alpha, 0.0, kappa), channels)
    optimizer = torch.optim.Adam(distiller.parameters(), 3e-3)
    history = []
    for _ in range(4):
        optimizer.zero_grad()
        loss, terms = distiller.loss(*data)
        loss.backward()
        optimizer.step()
        history.append(terms[term].item())
    assert history == sorted(history, reverse=True)
    assert history[-1] < 0.7 * history[0]
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert {"video", "text"} <= moved
    with pytest.raises(ValueError, match="'official' replaces"):
        VideoTextDistiller(model, clip, DistillConfig(weighting="official"))


def test_a_student_comes_back_from_its_folder(tmp_path):
    pytest.importorskip("safetensors")
    model, (clips, ids, mask) = student().eval(), batch()
    save_pretrained(model, tmp_path)
    again = load_pretrained(tmp_path)
    assert isinstance(again, VideoText)
    similarity = model(clips, ids, mask)
    assert torch.equal(again(clips, ids, mask), similarity)
    assert similarity.abs().max() <= model.scale
    torch.testing.assert_close(model(clips, ids[:, :5], mask[:, :5])[::2], similarity[::2])
    with pytest.raises(ValueError, match="must be a student of videos"):
        create_model("transmamba_video_text_micro", video="transmamba_vim_micro", video_options={})
    with pytest.raises(ValueError, match="must be a text encoder"):
        create_model("transmamba_video_text_micro", text="transmamba_lm_micro", text_options={})
