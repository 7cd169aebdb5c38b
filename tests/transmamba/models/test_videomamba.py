"""VideoMamba: published names, shapes and counts; the model written out on the reference scan."""

import pytest
import torch

from tests.transmamba.models.naive import assert_same, disturb, mamba, mlp
from transmamba.distill import Taps
from transmamba.models import create_model


# Counts of the published shapes for 8 frames and 400 classes (OpenGVLab/VideoMamba, video_sm/models/videomamba.py); its
# README gives 7, 26 and 74 M.
@pytest.mark.parametrize(
    ("name", "count"),
    [("videomamba_tiny", 7_033_744), ("videomamba_small", 25_568_656), ("videomamba_middle", 73_875_856)],
)
def test_published_parameter_counts(name, count):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("name", "d", "depth"),
    [("videomamba_tiny", 192, 24), ("videomamba_small", 384, 24), ("videomamba_middle", 576, 32)],
)
def test_published_names_and_shapes(name, d, depth):
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in create_model(name).state_dict().items()}
    expected = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 197, d),
        "temporal_pos_embedding": (1, 8, d),
        "patch_embed.proj.weight": (d, 3, 1, 16, 16),
        "patch_embed.proj.bias": (d,),
        "norm_f.weight": (d,),
        "head.weight": (400, d),
        "head.bias": (400,),
    }
    for i in range(depth):
        mixer = f"layers.{i}.mixer"
        expected |= {
            f"layers.{i}.norm.weight": (d,),
            f"{mixer}.in_proj.weight": (4 * d, d),
            f"{mixer}.out_proj.weight": (d, 2 * d),
        }
        for b in ("", "_b"):
            expected |= {
                f"{mixer}.A{b}_log": (2 * d, 16),
                f"{mixer}.D{b}": (2 * d,),
                f"{mixer}.conv1d{b}.weight": (2 * d, 1, 4),
                f"{mixer}.conv1d{b}.bias": (2 * d,),
                f"{mixer}.x_proj{b}.weight": (d // 16 + 32, 2 * d),
                f"{mixer}.dt_proj{b}.weight": (2 * d, d // 16),
                f"{mixer}.dt_proj{b}.bias": (2 * d,),
            }
    assert shapes == expected


def mixer_written_out(mixer, tokens):
    x, z = (part.mT for part in mixer.in_proj(tokens).chunk(2, dim=-1))
    m = mixer
    y = mamba(x, z, m.conv1d, m.x_proj, m.dt_proj, m.A_log, m.D)
    back = mamba(x.flip(-1), z.flip(-1), m.conv1d_b, m.x_proj_b, m.dt_proj_b, m.A_b_log, m.D_b)
    return m.out_proj((y + back.flip(-1)).mT / (2 if m.if_divide_out else 1))


def written_out(model, videos):
    """Frame by frame as published: each frame gets its positions, each place its times."""
    time, rows, columns = model.grid
    frames = model.patch_embed.proj(videos).permute(0, 2, 3, 4, 1).reshape(len(videos), time, rows * columns, -1)
    sequence = []
    first = 0 if model.cls_token is None else 1
    for t in range(time):
        for n in range(rows * columns):
            sequence.append(frames[:, t, n] + model.pos_embed[0, first + n] + model.temporal_pos_embedding[0, t])
    if model.config.order == "time_first":
        sequence = [sequence[t * rows * columns + n] for n in range(rows * columns) for t in range(time)]
    if first:
        sequence.insert(0, (model.cls_token[0, 0] + model.pos_embed[0, 0]).expand_as(sequence[0]))
    x = torch.stack(sequence, dim=1)
    for block in model.layers:
        x = x + mixer_written_out(block.mixer, block.norm(x))
        x = x + mlp(block, x)
    x = model.norm_f(x)
    return model.head(x[:, 0] if first else x.mean(1))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"mlp_ratio": 0.0, "norm": "rms", "if_divide_out": False},
        {"order": "time_first", "tubelet_size": 2},
        {"order": "time_first", "class_token": "none"},
    ],
)
def test_forward_and_gradients_are_the_model_written_out(kwargs):
    torch.manual_seed(0)
    options = {"d_model": 12, "depth": 2, "d_state": 3, "image_size": 6, **kwargs}
    model = disturb(create_model("transmamba_videomamba_micro", **options).double())
    videos = torch.randn(2, 1, 4, 6, 6, dtype=torch.double)
    assert_same(model, model(videos), written_out(model, videos))


def test_taps_are_frame_by_frame_in_either_order():
    """With one block and no mixing along the sequence both orders give the same features."""
    features = []
    for order in ("space_first", "time_first"):
        torch.manual_seed(0)
        model = create_model("transmamba_videomamba_micro", d_model=16, depth=1, order=order)
        with torch.no_grad():
            model.layers[0].mixer.out_proj.weight.zero_()
        taps = Taps()
        model.forward_features(torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), taps)
        features.append(taps.merged[0])
    torch.testing.assert_close(features[0], features[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_token": "middle"},
        {"order": "random"},
        {"norm": "batch"},
        {"mlp_ratio": -1.0},
        {"num_classes": -1},
        {"depth": 0},
        {"tubelet_size": 3},
        {"patch_size": 9},
    ],
)
def test_bad_config(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        create_model("transmamba_videomamba_micro", **wrong)


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(batch, 1, 4, 8, 8\), got \(2, 1, 8, 8\)"):
        create_model("transmamba_videomamba_micro")(torch.zeros(2, 1, 8, 8))
