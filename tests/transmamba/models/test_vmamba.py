"""VMamba: published names, shapes and counts; the model written out on the reference scan."""

import pytest
import torch
import torch.nn.functional as F

from tests.transmamba.models.naive import assert_same, disturb, mlp, walk
from transmamba.models import create_model


# MzeroMiko/VMamba, configs vmambav2v_tiny, vmambav2_tiny, vmambav2_small, vmambav2_base: its README gives 30, 31, 50
# and 89 M parameters, and a public log of its main.py 30705832 for the second.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vmamba_tiny", 30_249_064),
        ("vmamba_tiny_s2l5", 30_705_832),
        ("vmamba_small", 50_147_752),
        ("vmamba_base", 88_557_800),
    ],
)
def test_published_parameter_counts(name, count):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("name", "width", "depths", "expand"),
    [
        ("vmamba_tiny", 96, (2, 2, 8, 2), 1),
        ("vmamba_tiny_s2l5", 96, (2, 2, 5, 2), 2),
        ("vmamba_small", 96, (2, 2, 15, 2), 2),
        ("vmamba_base", 128, (2, 2, 15, 2), 2),
    ],
)
def test_published_names_and_shapes(name, width, depths, expand):
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in create_model(name).state_dict().items()}
    expected = {
        "patch_embed.0.weight": (width // 2, 3, 3, 3),
        "patch_embed.0.bias": (width // 2,),
        "patch_embed.5.weight": (width, width // 2, 3, 3),
        "patch_embed.5.bias": (width,),
        "classifier.head.weight": (1000, 8 * width),
        "classifier.head.bias": (1000,),
    }
    norms = {"patch_embed.2": width // 2, "patch_embed.7": width, "classifier.norm": 8 * width}
    for stage, depth in enumerate(depths):
        d = width * 2**stage
        inner, rank = expand * d, d // 16
        for j in range(depth):
            block = f"layers.{stage}.blocks.{j}"
            norms |= {f"{block}.norm": d, f"{block}.norm2": d, f"{block}.op.out_norm": inner}
            expected |= {
                f"{block}.op.x_proj_weight": (4, rank + 2, inner),
                f"{block}.op.dt_projs_weight": (4, inner, rank),
                f"{block}.op.dt_projs_bias": (4, inner),
                f"{block}.op.A_logs": (4 * inner, 1),
                f"{block}.op.Ds": (4 * inner,),
                f"{block}.op.in_proj.weight": (inner, d),
                f"{block}.op.conv2d.weight": (inner, 1, 3, 3),
                f"{block}.op.out_proj.weight": (d, inner),
                f"{block}.mlp.fc1.weight": (4 * d, d),
                f"{block}.mlp.fc1.bias": (4 * d,),
                f"{block}.mlp.fc2.weight": (d, 4 * d),
                f"{block}.mlp.fc2.bias": (d,),
            }
        if stage < 3:
            expected[f"layers.{stage}.downsample.1.weight"] = (2 * d, d, 3, 3)
            expected[f"layers.{stage}.downsample.1.bias"] = (2 * d,)
            norms[f"layers.{stage}.downsample.3"] = 2 * d
    for norm, size in norms.items():
        expected |= {f"{norm}.weight": (size,), f"{norm}.bias": (size,)}
    assert shapes == expected


def mixer_written_out(mixer, image):
    """The published order of things: tokens are walked first and projected then, on ``(batch, rows, columns, d)``."""
    _, rows, columns, _ = image.shape
    x = mixer.in_proj(image).permute(0, 3, 1, 2)
    u = F.silu(F.conv2d(x, mixer.conv2d.weight, mixer.conv2d.bias, padding="same", groups=x.shape[1])).flatten(2)
    tokens = torch.arange(rows * columns).view(rows, columns)
    ways = [tokens.flatten(), tokens.T.flatten()]
    ways += [way.flip(0) for way in ways]
    inner, n = mixer.d_inner, mixer.d_state
    y = 0
    for k, way in enumerate(ways):
        projected = mixer.x_proj_weight[k] @ u
        dt, B, C = projected.split([mixer.dt_rank, n, n], dim=1)
        A, D = (-M[k * inner : (k + 1) * inner] for M in (mixer.A_logs.exp(), -mixer.Ds))
        y = y + walk(way.tolist(), u, mixer.dt_projs_weight[k] @ dt, A, B, C, D, mixer.dt_projs_bias[k])
    y = y.unflatten(2, (rows, columns)).permute(0, 2, 3, 1)
    return mixer.out_proj(mixer.out_norm(y))


def written_out(model, images):
    stem, strides = model.patch_embed, {4: (2, 2), 2: (2, 1), 1: (1, 1)}[model.config.patch_size]

    def conv(x, module, stride):
        return F.conv2d(x.permute(0, 3, 1, 2), module.weight, module.bias, stride, padding=1).permute(0, 2, 3, 1)

    x = F.gelu(stem[2](conv(images.permute(0, 2, 3, 1), stem[0], strides[0])))
    x = stem[7](conv(x, stem[5], strides[1]))
    for i, stage in enumerate(model.layers):
        for block in stage.blocks:
            x = x + mixer_written_out(block.op, block.norm(x))
            x = x + mlp(block, x)
        if i + 1 < len(model.layers):
            x = stage.downsample[3](conv(x, stage.downsample[1], 2))
    return model.head(model.classifier.norm(x).mean((1, 2)))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"image_size": 10, "dims": (8, 12), "depths": (2, 1), "expand": 2.0},
        {"image_size": 12, "patch_size": 4, "dims": (6, 8, 10), "depths": (1, 1, 1), "d_state": 3, "mlp_ratio": 0.0},
        {"image_size": 5, "patch_size": 1, "dims": (8,), "depths": (1,)},
    ],
)
def test_forward_and_gradients_are_the_model_written_out(kwargs):
    torch.manual_seed(0)
    model = disturb(create_model("transmamba_vmamba_micro", **kwargs).double())
    images = torch.randn(2, 1, kwargs["image_size"], kwargs["image_size"], dtype=torch.double)
    assert_same(model, model(images), written_out(model, images))


def test_grids_and_widths_follow_the_stages():
    with torch.device("meta"):
        model = create_model("vmamba_tiny")
    assert model.grids == [(56, 56)] * 2 + [(28, 28)] * 2 + [(14, 14)] * 8 + [(7, 7)] * 2
    assert model.widths == [96] * 2 + [192] * 2 + [384] * 8 + [768] * 2
    assert model.hidden_widths == [4 * d for d in model.widths]


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch_size": 3},
        {"dims": (7, 8)},
        {"dims": (8,)},
        {"depths": (2, 0)},
        {"mlp_ratio": -1.0},
        {"num_classes": -1},
        {"conv_size": 4},
        {"expand": 0.0},
    ],
)
def test_bad_config(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        create_model("transmamba_vmamba_micro", **wrong)


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(batch, 1, 8, 8\), got \(2, 1, 7, 7\)"):
        create_model("transmamba_vmamba_micro")(torch.zeros(2, 1, 7, 7))
