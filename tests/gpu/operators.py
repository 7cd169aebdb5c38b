"""Every registered operator at a tiny shape, and what it is called with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from tests.transmamba_kernels.bidirectional_scan import cases as bidirectional
from tests.transmamba_kernels.causal_conv1d import cases as conv
from tests.transmamba_kernels.conv_state_update import cases as conv_step
from tests.transmamba_kernels.cross_mamba import cases as cross
from tests.transmamba_kernels.multi_scan import cases as multi
from tests.transmamba_kernels.selective_scan import cases as scan
from tests.transmamba_kernels.sequences import offsets, on
from tests.transmamba_kernels.state_update import cases as scan_step
from transmamba_kernels import (
    bidirectional_scan,
    causal_conv1d,
    conv_state_update,
    cross_mamba,
    multi_scan,
    selective_scan,
    state_update,
)

Inputs = dict[str, torch.Tensor | None]


class Op(NamedTuple):
    """An op at a shape.

    Attributes:
        function: The public one.
        make: Returns the inputs by name, for a length.
        options: Beside the inputs and the backend.
    """

    function: Callable[..., Any]
    make: Callable[[int], Inputs]
    options: dict[str, Any]

    def inputs(self, device: str, length: int = 3, dtype: torch.dtype = torch.float32) -> Inputs:
        """Inputs on ``device``, over the memory layouts that ``make`` chose."""
        return {name: None if t is None else _on(device, t, dtype) for name, t in self.make(length).items()}

    @property
    def state(self) -> str | None:
        """The input that is changed, if one is."""
        return {"state_update": "state", "conv_state_update": "conv_state"}.get(self.function.__name__)


def _on(device, t, dtype):
    return on(device, t.to(dtype) if t.is_floating_point() else t)


def _reversed_inputs(length: int) -> Inputs:
    return scan.make_inputs(1, 4, length, 3, groups=2, B_kind="groups")


def _packed_inputs(length: int) -> Inputs:
    lengths = (length - 2, 0, 2)
    return {**scan.make_packed(lengths, 4, 3), "cu_seqlens": offsets(lengths)}


def _multi_inputs(length: int) -> Inputs:
    return multi.make_inputs(1, 4, (1, length), 2, own=("A", "B"))


def _masked_inputs(length: int) -> Inputs:
    mask = torch.arange(length) < torch.tensor([[length], [2]])
    return {**cross.make_inputs(2, 4, length, 2), "mask": mask}


def _rows(_: int) -> Inputs:
    return scan_step.make_inputs(2, (2, 3), 3, groups=2, rows=5, without=("D",))


def _circular(_: int) -> Inputs:
    return conv_step.make_inputs(2, 6, rows=5, circular=True, entries=6)


_SCAN = {"delta_softplus": True, "return_last_state": True}
_CONV = {"activation": "silu", "return_final_state": True}
SEQUENCES = {
    "selective_scan": Op(selective_scan, lambda length: scan.make_inputs(2, 4, length, 3), _SCAN),
    "selective_scan, reversed": Op(selective_scan, _reversed_inputs, {**_SCAN, "reverse": True}),
    "selective_scan, packed": Op(selective_scan, _packed_inputs, _SCAN),
    "bidirectional_scan": Op(
        bidirectional_scan, lambda length: bidirectional.make_inputs(1, 4, length, 2, own=("A", "u")), _SCAN
    ),
    "multi_scan": Op(multi_scan, _multi_inputs, _SCAN),
    "cross_mamba": Op(
        cross_mamba, lambda length: cross.make_inputs(1, 4, length, 2, image="time", gate=()), {"delta_softplus": True}
    ),
    "cross_mamba, masked": Op(cross_mamba, _masked_inputs, {"delta_softplus": True}),
    "causal_conv1d": Op(causal_conv1d, lambda length: conv.make_inputs(2, 4, length, 3), _CONV),
}
STEPS = {
    "state_update": Op(state_update, lambda _: scan_step.make_inputs(2, (6,), 3), {"dt_softplus": True}),
    "state_update, rows": Op(state_update, _rows, {"dt_softplus": True}),
    "conv_state_update": Op(conv_state_update, lambda _: conv_step.make_inputs(2, 6), {"activation": "silu"}),
    "conv_state_update, circular": Op(conv_state_update, _circular, {"activation": "silu"}),
}
ALL = SEQUENCES | STEPS
