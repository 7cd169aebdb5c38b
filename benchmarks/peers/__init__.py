"""What others offer for the same computation, behind the signatures of our ops."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Peer(NamedTuple):
    """Another implementation.

    Attributes:
        name: In the tables.
        module: Under ``benchmarks.peers``; has a function named like the op.
        needs: The package it wraps, or None.
        install: How to get that package.
        trains_up_to: The longest sequence it is trained on here; its backward is quadratic in the length.
        contiguous: It is given channel-first inputs, which it would make itself otherwise.
    """

    name: str
    module: str
    needs: str | None = None
    install: str = ""
    trains_up_to: int | None = None
    contiguous: bool = False

    def load(self, op: str) -> Callable[..., Tensor]:
        """Return the function.

        Raises:
            ImportError: The package is missing; the message says how to install it.
        """
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            raise ImportError(f"{self.needs} is not installed: {self.install}")
        return getattr(importlib.import_module(f"benchmarks.peers.{self.module}"), op)


_TRANSFORMERS = {"needs": "transformers", "install": "pip install 'transformers>=5'"}

SELECTIVE_SCAN = (
    Peer("torch_loop", "torch_loop"),
    Peer("mambapy", "mambapy_pscan", "mambapy", "pip install --no-deps mambapy"),
    Peer("transformers", "transformers_slow", **_TRANSFORMERS, trains_up_to=256),
    Peer("associative_scan", "torch_associative_scan"),
)
CAUSAL_CONV1D = (Peer("torch", "torch_conv1d"),)
STATE_UPDATE = (Peer("torch", "torch_step"), Peer("transformers", "transformers_slow", **_TRANSFORMERS))
CONV_STATE_UPDATE = STATE_UPDATE
BIDIRECTIONAL_SCAN = (Peer("two scans, flips", "flipped_scans"),)
MULTI_SCAN = (Peer("four scans, copies", "permuted_scans"),)

# On a GPU. Both packages compile CUDA code when they are installed; mamba_ssm its scan only if asked to.
_FORCED = "MAMBA_FORCE_BUILD=TRUE MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-deps mamba_ssm"
_MAMBA_SSM = Peer("mamba_ssm", "mamba_ssm_package", "mamba_ssm", _FORCED, contiguous=True)
_FORCED = "CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation --no-deps causal_conv1d"
_CAUSAL_CONV1D = Peer("causal_conv1d", "causal_conv1d_package", "causal_conv1d", _FORCED)
GPU = {
    "selective_scan": (_MAMBA_SSM,),
    "bidirectional_scan": (_MAMBA_SSM._replace(name="two of mamba_ssm, flips"),),
    "multi_scan": (),
    "cross_mamba": (),
    "causal_conv1d": (_CAUSAL_CONV1D,),
    "state_update": (_MAMBA_SSM,),
    "conv_state_update": (_CAUSAL_CONV1D,),
}
