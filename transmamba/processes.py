"""Several processes that train one model, started by ``accelerate launch`` or torchrun: each takes a part of a batch.

All of them run the same program on the same seeds; what is written, one of them writes.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from torch import Tensor, distributed


def count() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


@functools.cache
def engine(device_type: str) -> Any:
    """The ``accelerate.Accelerator`` that joins the processes; None where there is one alone.

    Raises:
        ImportError: accelerate is not installed.
        ValueError: It was told to do what the training does not support; the message says what.
    """
    if count() == 1:
        return None
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise ValueError("FSDP is not supported: the models here fit one device; start without --use_fsdp")
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError('several processes need accelerate: pip install "transmamba[adapt]"') from error
    # With a weight of 0 a term of the loss, and what only it trains, takes no part in a step.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device_type == "cpu", mixed_precision="no", kwargs_handlers=[unused])


def mean(value: Tensor) -> Tensor:
    """Mean of a tensor over all processes."""
    if not _joined():
        return value
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value / distributed.get_world_size()


def anywhere(fact: bool) -> bool:
    """Whether ``fact`` holds in any process."""
    if not _joined():
        return fact
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, fact)
    return any(found)


def from_first(value: Any) -> Any:
    """The first process's ``value``."""
    if not _joined():
        return value
    shared = [value]
    distributed.broadcast_object_list(shared)
    return shared[0]


def share(batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], float]:
    """This process's samples of a batch, and the factor that makes the mean of all processes' losses the batch's.

    A process without a sample of its own computes one with a factor of 0, because all must take part.
    """
    if not _joined():
        return batch, 1.0
    world, whole = distributed.get_world_size(), len(batch[0])
    mine = [t[distributed.get_rank() :: world] for t in batch]
    if len(mine[0]) == 0:
        return tuple(t[:1] for t in batch), 0.0
    return tuple(mine), len(mine[0]) * world / whole


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
