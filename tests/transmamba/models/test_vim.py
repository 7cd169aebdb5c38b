"""Vim: published names, shapes and counts; class tokens, taps, registry."""

import dataclasses

import pytest
import torch

from transmamba.distill import Taps
from transmamba.models import Vim, VimConfig, create_model, list_models, register_model
from transmamba.models.roles import PARTS


def small(**kwargs):
    torch.manual_seed(0)
    return create_model(
        "transmamba_vim_micro", **{"d_model": 16, "depth": 2, "d_state": 4, "class_token": "middle", **kwargs}
    )


# Parameters counted from the published shapes (hustvl/Vim, abs_pos_embed, middle class token, div2, 1000 classes);
# the paper gives 7 M and 26 M.
@pytest.mark.parametrize(("name", "count"), [("vim_tiny", 7_148_008), ("vim_small", 25_796_584)])
def test_published_parameter_counts(name, count):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == count


def test_published_names_and_shapes():
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in create_model("vim_tiny").state_dict().items()}
    outside = {name: shape for name, shape in shapes.items() if not name.startswith("layers.")}
    assert outside == {
        "cls_token": (1, 1, 192),
        "pos_embed": (1, 197, 192),
        "patch_embed.proj.weight": (192, 3, 16, 16),
        "patch_embed.proj.bias": (192,),
        "norm_f.weight": (192,),
        "head.weight": (1000, 192),
        "head.bias": (1000,),
    }
    layer = sorted(name.removeprefix("layers.23.") for name in shapes if name.startswith("layers.23."))
    assert layer == sorted(
        ["norm.weight"]
        + [f"mixer.{n}" for n in ("A_log", "D", "A_b_log", "D_b", "in_proj.weight", "out_proj.weight")]
        + [f"mixer.conv1d{d}.{t}" for d in ("", "_b") for t in ("weight", "bias")]
        + [f"mixer.x_proj{d}.weight" for d in ("", "_b")]
        + [f"mixer.dt_proj{d}.{t}" for d in ("", "_b") for t in ("weight", "bias")]
    )
    assert not any(name.startswith("layers.24.") for name in shapes)


@pytest.mark.parametrize(("kind", "position"), [("middle", 8), ("head", 0), ("none", None)])
def test_class_token(kind, position):
    model = small(class_token=kind).double().eval()
    images = torch.randn(2, 1, 8, 8, dtype=torch.double)
    x = model.patch_embed(images)
    if position is not None:
        x = torch.cat([x[:, :position], model.cls_token.expand(2, -1, -1), x[:, position:]], dim=1)
    x = x + model.pos_embed
    for layer in model.layers:
        x = layer(x)
    x = model.norm_f(x)
    feature = x.mean(1) if position is None else x[:, position]
    torch.testing.assert_close(model.forward_features(images), feature)
    torch.testing.assert_close(model(images), model.head(feature))

    taps = Taps()
    torch.testing.assert_close(model.forward_features(images, taps), feature)
    assert sorted(taps.merged) == [0, 1]
    for i in (0, 1):
        assert taps.merged[i].shape == (2, 16, 16)
        torch.testing.assert_close(torch.stack(taps.directions[i]).mean(0), taps.merged[i], rtol=1e-13, atol=1e-13)


def test_taps_record_the_visual_tokens_around_the_class_token():
    model, taps = small(depth=1).double(), Taps(layers=[0], directions=False)
    images = torch.randn(1, 1, 8, 8, dtype=torch.double)
    model.forward_features(images, taps)
    x = model.patch_embed(images)
    x = torch.cat([x[:, :8], model.cls_token, x[:, 8:]], dim=1) + model.pos_embed
    out = model.layers[0](x)
    torch.testing.assert_close(taps.merged[0], out[:, [i for i in range(17) if i != 8]])
    assert taps.directions[0] == []


def test_taps_serve_one_pass():
    model, taps = small(), Taps()
    model.forward_features(torch.zeros(1, 1, 8, 8), taps)
    with pytest.raises(RuntimeError, match="already"):
        model.forward_features(torch.zeros(1, 1, 8, 8), taps)


def test_every_parameter_has_a_role():
    for kwargs in ({}, {"mlp_ratio": 0.0, "norm": "rms", "class_token": "none", "num_classes": 0}):
        model = small(**kwargs)
        roles = model.clone_roles()
        assert list(roles) == [name for name, _ in model.named_parameters()]
        assert {role.part for role in roles.values()} <= set(PARTS)
        assert all((role.layer is None) == (not name.startswith("layers.")) for name, role in roles.items())


def test_gradients_reach_every_parameter():
    model = small()
    model(torch.randn(2, 1, 8, 8)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_mixer_outputs_are_scaled_to_the_depth_only_without_mlps():
    bound = 32**-0.5  # of the default initialisation with 32 inputs
    for ratio, factor in ((0.0, 4**-0.5), (2.0, 1.0)):
        weight = small(depth=4, mlp_ratio=ratio).layers[0].mixer.out_proj.weight
        assert 0.9 * factor * bound < weight.abs().max() <= factor * bound


def test_registry():
    assert {"vim_tiny", "vim_small", "vim_base", "transmamba_vim_micro"} <= set(list_models())
    assert {f"transmamba_vim_{size}" for size in ("tiny", "small", "base")} <= set(list_models())
    model = small(num_classes=3)
    assert model.name == "transmamba_vim_micro"
    assert isinstance(model.config, VimConfig)
    assert model.config.num_classes == 3
    with pytest.raises(ValueError, match="did you mean 'vim_tiny'"):
        create_model("vim_tyny")
    with pytest.raises(TypeError, match="no option width; its options are image_size"):
        create_model("vim_tiny", width=3)
    with pytest.raises(ValueError, match="registered already"):
        register_model("vim_tiny", Vim, VimConfig())
    with pytest.raises(TypeError, match="dataclass"):
        register_model("new", Vim, {"depth": 3})


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_token": "tail"},
        {"norm": "batch"},
        {"mlp_ratio": -1.0},
        {"num_classes": -1},
        {"depth": 0},
        {"d_model": 0},
    ],
)
def test_bad_config(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        create_model("transmamba_vim_micro", **wrong)


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VimConfig().depth = 3
