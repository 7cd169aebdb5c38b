"""The optimiser, its schedule, and a running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from transmamba.config import OptimConfig


def create_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW on what of ``model`` requires a gradient; vectors and what carries ``_no_weight_decay`` do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    free = [p for p in parameters if p.ndim < 2 or getattr(p, "_no_weight_decay", False)]
    exempt = {id(p) for p in free}
    groups = [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    r"""Rate of the step with index ``step`` of ``steps``: a pure function, so it needs no state.

    .. math:: \eta_t = \eta\,\frac{t + 1}{W} \text{ for } t < W, \qquad
        \eta_t = \eta\Big(f + (1 - f)\tfrac{1}{2}\big(1 + \cos \pi \tfrac{t - W}{T - W}\big)\Big)

    with ``W = warmup * T`` steps of warm-up and ``f = final_rate``.
    """
    rising = round(config.warmup * steps)
    if step < rising:
        return config.learning_rate * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    low = config.final_rate
    return config.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * done)) / 2)


class Ema:
    """Exponential mean of a model's state, started from the state it has now.

    Attributes:
        state: The means, by name; tensors that are not floating point follow the model.
    """

    def __init__(self, model: nn.Module, keep: float):
        self.keep = keep
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the means towards the model's state by ``1 - keep``."""
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - self.keep)
            else:
                self.state[name].copy_(tensor)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the means into the model, and its own state back afterwards."""
        own: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(own)
