"""Optimiser groups, the schedule by hand, the running mean."""

import pytest
import torch
from torch import nn

from transmamba.config import OptimConfig
from transmamba.models import create_model
from transmamba.optim import Ema, create_optimizer, learning_rate


def test_only_matrices_decay():
    model = create_model("transmamba_vim_micro", d_model=16, depth=1)
    names = {id(p): name for name, p in model.named_parameters()}
    decaying, free = create_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    exempt = {names[id(p)] for p in free["params"]}
    assert {
        "layers.0.mixer.A_log",
        "layers.0.mixer.A_b_log",
        "layers.0.mixer.D",
        "norm_f.weight",
        "head.bias",
    } <= exempt
    assert {names[id(p)] for p in decaying["params"]} == set(names.values()) - exempt
    assert {"head.weight", "layers.0.mixer.in_proj.weight"} <= {names[id(p)] for p in decaying["params"]}


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = create_optimizer(model, OptimConfig()).param_groups
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model[1].parameters()}


def test_schedule():
    config = OptimConfig(learning_rate=2.0, warmup=0.2, final_rate=0.1)
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert learning_rate(config, 6, 10) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert learning_rate(config, 10, 10) == pytest.approx(0.2)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert learning_rate(OptimConfig(learning_rate=2.0, warmup=0.0), 0, 10) == 2.0


def test_running_mean_is_applied_and_taken_back():
    model = nn.BatchNorm1d(2)
    ema = Ema(model, 0.75)
    with torch.no_grad():
        model.weight.fill_(5)
        model.num_batches_tracked.fill_(3)
    ema.update(model)
    with ema.applied(model):
        assert model.weight.tolist() == [2, 2]
        assert model.num_batches_tracked == 3
    assert model.weight.tolist() == [5, 5]


def test_biases_that_are_matrices_do_not_decay():
    for name, bias in (
        ("transmamba_plainmamba_micro", "backbone.layers.0.mamba.direction_Bs"),
        ("transmamba_vmamba_micro", "layers.0.blocks.0.op.dt_projs_bias"),
    ):
        model = create_model(name)
        free = create_optimizer(model, OptimConfig()).param_groups[1]
        assert model.get_parameter(bias).ndim == 2
        assert any(p is model.get_parameter(bias) for p in free["params"])
