"""Index tensors, checked when they are new or changed, and the copies that kernels read in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class IndexCopies:
    """Contiguous int32 copies of index tensors, kept for as long as the tensors live unchanged.

    What a kernel indexes with must stay what was checked, so it is a copy that nobody else holds. Only what is written
    past torch, through numpy for example, goes unnoticed, and then the copy's values are used.

    Args:
        name: What an op calls the tensor, for messages.
        check: Called with a copy and what it is used with; raises if its values are wrong.
    """

    def __init__(self, name: str, check: Callable[..., object]):
        self._name, self._check = name, check
        self._kept = WeakTensorKeyDictionary()

    def __call__(self, tensor: Tensor, device: torch.device, *used_with: Any) -> Tensor:
        """The copy of ``tensor`` on ``device``, checked.

        Raises:
            RuntimeError: A CUDA graph is being captured and the copy has yet to be made: the host reads what it checks.
        """
        # The counter also sees writes through views; what an inference tensor has none of is checked each time.
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), used_with)
        state = None if tensor.is_inference() else (tensor._version, *key)
        found = self._kept.get(tensor)
        known = state is not None and found is not None and found[0] == state
        if known and device in found[1]:
            return found[1][device]
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{self._name} cannot be checked while a CUDA graph is captured: call the op once with this tensor "
                "before, and do not change it; it must not have been made in torch.inference_mode()"
            )
        if not known:
            copy = tensor.detach().to(torch.int32, copy=True, memory_format=torch.contiguous_format)
            self._check(copy, *used_with)
            found = state, {copy.device: copy}
            if state is not None:
                self._kept[tensor] = found
        copies = found[1]
        if device not in copies:
            copies[device] = next(iter(copies.values())).to(device)
        return copies[device]
