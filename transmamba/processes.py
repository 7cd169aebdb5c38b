"""Several processes that train one model, started by ``accelerate launch`` or torchrun: each takes a part of a batch.

All of them run the same program on the same seeds; what is written, one of them writes. Parameters are whole in each
(DDP), or shared out among them (FSDP); what is saved is the same.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn


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
    """
    if count() == 1:
        return None
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError('several processes need accelerate: pip install "transmamba[adapt]"') from error
    # With a weight of 0 a term of the loss, and what only it trains, takes no part in a step.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device_type == "cpu", mixed_precision="no", kwargs_handlers=[unused])


def distribute(module: nn.Module, device_type: str) -> nn.Module:
    """``module`` such that its forward and the gradients of it are those of all processes together.

    With FSDP the parameters change their identity: make the optimiser afterwards.
    """
    if (joined := engine(device_type)) is None:
        return module
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return joined.prepare_model(module)
    from torch.distributed.fsdp import fully_shard

    marks = {name: dict(vars(parameter)) for name, parameter in module.named_parameters()}
    mesh = distributed.init_device_mesh(device_type, (distributed.get_world_size(),))
    for part in list(module.modules()):
        for path in getattr(part, "layer_names", ()):
            fully_shard(part.get_submodule(path), mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name, parameter in module.named_parameters():
        vars(parameter).update(marks[name])  # such as that it does not decay
    return module


def alone(module: nn.Module) -> AbstractContextManager[object]:
    """Within it a backward pass of :func:`distribute`'s module may leave the gradients of this process alone."""
    return module.no_sync() if isinstance(module, nn.parallel.DistributedDataParallel) else nullcontext()


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within it the parts of :func:`distribute`'s module can be called on their own."""
    sharded: Any = module if hasattr(module, "unshard") else None
    if sharded is not None:
        sharded.unshard()
    yield
    if sharded is not None:
        sharded.reshard()


def whole(state: Any) -> Any:
    """``state`` of a module or an optimiser with shared-out tensors put together, nested as it is."""
    if isinstance(state, dict):
        return {name: whole(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def shared_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's share of ``value``, where ``parameter`` of its shape is shared out."""
    if not hasattr(parameter, "full_tensor") or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]
    return distribute_tensor(value.to(mesh.device_type), mesh, parameter.placements)  # type: ignore[attr-defined]


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


def means(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean of each of these scalars over all processes, gathered at once."""
    if not _joined():
        return values
    gathered = torch.stack([value.detach().float() for value in values.values()])
    distributed.all_reduce(gathered)
    return dict(zip(values, gathered / distributed.get_world_size(), strict=True))


@contextmanager
def one_writer() -> Iterator[bool]:
    """Yield whether this is the process that changes files.

    All wait for each other before and afterwards, so that all have read what was there and find what is there then.
    """
    joined = _joined()
    if joined:
        distributed.barrier()
    yield not joined or distributed.get_rank() == 0
    if joined:
        distributed.barrier()


def share(batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], float]:
    """This process's samples of a batch, and the factor that makes the mean of all processes' losses the batch's.

    A process without a sample of its own computes one with a factor of 0, because all must take part.
    """
    if not _joined():
        return batch, 1.0
    world, samples = distributed.get_world_size(), len(batch[0])
    mine = [t[distributed.get_rank() :: world] for t in batch]
    if len(mine[0]) == 0:
        return tuple(t[:1] for t in batch), 0.0
    return tuple(mine), len(mine[0]) * world / samples


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
