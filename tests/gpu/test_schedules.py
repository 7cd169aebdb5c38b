"""Emulated CUDA kernels give the same bits whichever of a block's threads goes first.

None may read what another writes unless a barrier comes between.
"""

import pytest
import torch

from tests.cuda_emulation import build
from tests.transmamba_kernels.bidirectional_scan import cases as bidirectional_scan
from tests.transmamba_kernels.causal_conv1d import cases as causal_conv1d
from tests.transmamba_kernels.conv_state_update import cases as conv_state_update
from tests.transmamba_kernels.selective_scan import cases as selective_scan
from tests.transmamba_kernels.sequences import offsets
from tests.transmamba_kernels.state_update import cases as state_update
from transmamba_kernels import native

pytestmark = pytest.mark.usefixtures("poison")

LENGTHS = (40, 0, 1, 30)
# op: inputs, options
CALLS = {
    "causal_conv1d": (causal_conv1d, lambda: causal_conv1d.make_inputs(1, 37, 150), {}),
    "causal_conv1d reverse": (causal_conv1d, lambda: causal_conv1d.make_inputs(1, 5, 150), {"reverse": True}),
    "causal_conv1d packed": (causal_conv1d, lambda: causal_conv1d.make_packed(LENGTHS), {"cu_seqlens": LENGTHS}),
    "selective_scan": (selective_scan, lambda: selective_scan.make_inputs(1, 37, 70, 16), {}),
    "selective_scan small": (selective_scan, lambda: selective_scan.make_inputs(2, 20, 37, 4), {"reverse": True}),
    "selective_scan wide": (selective_scan, lambda: selective_scan.make_inputs(1, 5, 37, 70), {}),
    "selective_scan groups": (selective_scan, lambda: selective_scan.make_inputs(1, 12, 37, 4, groups=3), {}),
    "selective_scan chunks": (selective_scan, lambda: selective_scan.make_inputs(1, 5, 290, 4), {}),
    "selective_scan packed": (selective_scan, lambda: selective_scan.make_packed(LENGTHS), {"cu_seqlens": LENGTHS}),
    "bidirectional_scan": (bidirectional_scan, lambda: bidirectional_scan.make_inputs(1, 12, 37, 4, own=("A",)), {}),
    "state_update": (state_update, lambda: state_update.make_inputs(2, (37,), 16), {}),
    "conv_state_update": (conv_state_update, lambda: conv_state_update.make_inputs(2, 37), {}),
}


@pytest.fixture
def emulated(monkeypatch):
    """The emulated module, in place of the CUDA module; afterwards its threads go in order again."""
    module = build.load()
    monkeypatch.setattr(native, "find_cuda", lambda: (module, None))
    yield module
    build.use_schedule(module, "in order")


@pytest.mark.parametrize("call", CALLS)
def test_every_schedule_gives_the_same_bits(call, emulated):
    cases, make, options = CALLS[call]
    if "cu_seqlens" in options:
        options = {"cu_seqlens": offsets(options["cu_seqlens"])}
    inputs, results = make(), []
    for schedule, seed in (("in order", 0), ("reverse", 0), ("shuffled", 1), ("shuffled", 2)):
        build.use_schedule(emulated, schedule, seed)
        results.append(cases.run(inputs, "cuda", **options))
    for other in results[1:]:
        assert [name for name, value in results[0].items() if not torch.equal(value, other[name])] == []
