"""PlainMamba: published names, shapes and counts; the model written out on the reference scan."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from tests.transmamba.models.naive import assert_same, disturb, mlp, walk
from transmamba.models import create_model

MOVES = {(0, 1): 1, (0, -1): 2, (-1, 0): 3, (1, 0): 4}


# Counts of the published shapes (ChenhongyiYang/PlainMamba, plain_mamba.py, 1000 classes). Its README gives the
# parameters without the head, cut off: 7.3, 25.7 and 50.5 M.
@pytest.mark.parametrize(
    ("name", "count", "published"),
    [
        ("plainmamba_l1", 7_551_656, 7.3),
        ("plainmamba_l2", 26_145_832, 25.7),
        ("plainmamba_l3", 50_956_456, 50.5),
    ],
)
def test_published_parameter_counts(name, count, published):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == count
    backbone = sum(p.numel() for p in model.backbone.parameters())
    assert int(backbone / 1e5) / 10 == published


def shapes_of(name):
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in create_model(name).state_dict().items()}


NORM = ("running_mean", "running_var", "weight", "bias")


@pytest.mark.parametrize(
    ("name", "d", "depth", "convs", "rank"),
    [("plainmamba_l1", 192, 24, 1, 12), ("plainmamba_l2", 384, 24, 2, 24), ("plainmamba_l3", 448, 36, 2, 28)],
)
def test_published_names_and_shapes(name, d, depth, convs, rank):
    shapes = shapes_of(name)
    expected = {
        "backbone.pos_embed": (1, 196, d),
        "backbone.patch_embed.stem.0.weight": (64, 3, 7, 7),
        "backbone.patch_embed.projection.weight": (d, 64, 8, 8),
        "backbone.patch_embed.projection.bias": (d,),
        "backbone.ln1.weight": (d,),
        "backbone.ln1.bias": (d,),
        "head.fc.weight": (1000, d),
        "head.fc.bias": (1000,),
    }
    norms = {"backbone.patch_embed.stem.1": 64}
    for i in range(convs):
        expected[f"backbone.patch_embed.convs.{3 * i}.weight"] = (64, 64, 3, 3)
        norms[f"backbone.patch_embed.convs.{3 * i + 1}"] = 64
    if name == "plainmamba_l1":
        expected["backbone.layers.0.dw.0.weight"] = (d, 1, 3, 3)
        norms["backbone.layers.0.dw.1"] = d
    for norm, size in norms.items():
        expected |= {f"{norm}.{part}": (size,) for part in NORM} | {f"{norm}.num_batches_tracked": ()}
    for i in range(depth):
        mixer = f"backbone.layers.{i}.mamba"
        expected |= {
            f"backbone.layers.{i}.norm.weight": (d,),
            f"backbone.layers.{i}.norm.bias": (d,),
            f"{mixer}.A_log": (2 * d, 16),
            f"{mixer}.D": (2 * d,),
            f"{mixer}.direction_Bs": (5, 16),
            f"{mixer}.in_proj.weight": (4 * d, d),
            f"{mixer}.in_proj.bias": (4 * d,),
            f"{mixer}.conv2d.weight": (2 * d, 1, 7, 7),
            f"{mixer}.conv2d.bias": (2 * d,),
            f"{mixer}.x_proj.weight": (rank + 32, 2 * d),
            f"{mixer}.dt_proj.weight": (2 * d, rank),
            f"{mixer}.dt_proj.bias": (2 * d,),
            f"{mixer}.out_proj.weight": (d, 2 * d),
            f"{mixer}.out_proj.bias": (d,),
        }
    assert shapes == expected


def paths(rows, columns):
    """The four snakes as tokens and as movements, from their description."""
    by_rows = [(i, j if i % 2 == 0 else columns - 1 - j) for i in range(rows) for j in range(columns)]
    by_columns = [(i if j % 2 == 0 else rows - 1 - i, j) for j in range(columns) for i in range(rows)]
    for path in (by_rows, by_rows[::-1], by_columns, by_columns[::-1]):
        moved = [MOVES[b[0] - a[0], b[1] - a[1]] for a, b in itertools.pairwise(path)]
        yield [i * columns + j for i, j in path], [0, *moved]


def mixer_written_out(mixer, x):
    rows, columns = mixer.grid
    x, z = mixer.in_proj(x).chunk(2, dim=-1)
    image = x.mT.reshape(x.shape[0], -1, rows, columns)
    u = F.silu(F.conv2d(image, mixer.conv2d.weight, mixer.conv2d.bias, padding="same", groups=x.shape[-1])).flatten(2)
    dt, B, C = mixer.x_proj(u.mT).split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
    # The published code adds the bias in the projection and once more in the scan.
    delta = (mixer.dt_proj(dt) if mixer.double_dt_bias else dt @ mixer.dt_proj.weight.T).mT
    y = 0
    for path, moves in paths(rows, columns):
        theta = mixer.direction_Bs[moves]
        if mixer.permute_params:  # of a token, not of a step
            theta = theta[torch.tensor(path).argsort()]
        parameters = (-mixer.A_log.exp(), (B + theta).mT, C.mT, mixer.D, mixer.dt_proj.bias)
        y = y + walk(path, u, delta, *parameters, permute_params=mixer.permute_params)
    return mixer.out_proj(y.mT * F.silu(z))


def written_out(model, images):
    body = model.backbone
    embed = body.patch_embed
    tokens = embed.projection(embed.convs(embed.stem(images))) if hasattr(embed, "stem") else embed.proj(images)
    x = tokens.flatten(2).mT + body.pos_embed
    for block in body.layers:
        x = x + mixer_written_out(block.mamba, block.norm(x))
        x = x + mlp(block, x)
        if block.dw is not None:
            image = x.mT.reshape(x.shape[0], -1, *model.grid)
            x = block.dw(image).flatten(2).mT
    return model.head.fc(body.ln1(x).mean(1))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"stem": "conv", "stem_convs": 2, "mlp_ratio": 0.0, "permute_params": False, "double_dt_bias": True},
        {"dwconv_layers": (1,)},
        {"norm": "rms", "permute_params": False},
    ],
)
def test_forward_and_gradients_are_the_model_written_out(kwargs):
    torch.manual_seed(0)
    options = {"d_model": 12, "depth": 2, "d_state": 3, "image_size": 12, "patch_size": 4, **kwargs}
    model = disturb(create_model("transmamba_plainmamba_micro", **options).double()).eval()
    images = torch.randn(2, 1, 12, 12, dtype=torch.double)
    assert_same(model, model(images), written_out(model, images))


def test_initial_step_size_lies_in_its_range():
    model = create_model("transmamba_plainmamba_micro", double_dt_bias=True, depth=1)
    dt = F.softplus(2 * model.backbone.layers[0].mamba.dt_proj.bias)
    assert dt.min() >= 0.999e-3
    assert dt.max() <= 0.1001


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch_size": 3},
        {"stem": "mlp"},
        {"stem_convs": -1},
        {"mlp_ratio": -1.0},
        {"num_classes": -1},
        {"depth": 0},
        {"dwconv_layers": (4,)},
        {"norm": "batch"},
        {"conv_size": 4},
    ],
)
def test_bad_config(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        create_model("transmamba_plainmamba_micro", **wrong)


def test_bad_input():
    model = create_model("transmamba_plainmamba_micro", stem="conv")
    with pytest.raises(ValueError, match=r"\(batch, 1, 8, 8\), got \(2, 3, 8, 8\)"):
        model(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\(batch, 16, 64\), got \(2, 15, 64\)"):
        model.backbone.layers[0](torch.zeros(2, 15, 64))
