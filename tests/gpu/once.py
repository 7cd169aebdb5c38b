"""``python -m tests.gpu.once BACKEND``: every op once on a GPU, forward and backward, for a checker to watch."""

import sys

import torch

from tests.gpu.operators import ALL

DTYPES = (torch.float32, torch.bfloat16)


def run(backend: str, device: str) -> None:
    """Call every op and, where it has them, its gradients."""
    for op in ALL.values():
        for dtype in DTYPES:
            inputs = op.inputs(device, 35, dtype)
            if not op.state:
                inputs = {
                    name: t.requires_grad_() if t is not None and t.is_floating_point() else t
                    for name, t in inputs.items()
                }
            found = op.function(**inputs, backend=backend, **op.options)
            results = (found,) if torch.is_tensor(found) else found
            total = sum(t.float().square().sum() for t in results)
            if not op.state:
                total.backward()
            assert total.isfinite(), op


if __name__ == "__main__":
    run(sys.argv[1], "cuda")
    torch.cuda.synchronize()
    print("every op ran")
