"""A Vim-tiny learns the digits on a GPU as it does on the CPU."""

import pytest
import torch

from transmamba.models import create_model
from transmamba.tasks.classification import load_images
from transmamba_kernels import native

STEPS, BATCH = 20, 32


def losses(device, dtype=torch.float32, depth=4):
    """The loss before each of some steps of gradient descent."""
    torch.manual_seed(0)
    model = create_model("vim_tiny", image_size=8, patch_size=2, in_channels=1, num_classes=10, depth=depth)
    model.to(device, dtype)
    images, labels = load_images("digits").train.tensors
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    found = []
    for picked in order[: STEPS * BATCH].split(BATCH):
        loss = torch.nn.functional.cross_entropy(model(images[picked].to(device, dtype)), labels[picked].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found).cpu()


def test_the_loss_curve_of_the_cpu(gpu, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    if gpu.backend == "triton":  # which comes second
        monkeypatch.setattr(native, "find_cuda", lambda: (None, "is left out"))
    expected = losses("cpu")
    assert expected[-1] < 0.7 * expected[0]
    torch.testing.assert_close(losses("cuda"), expected, rtol=1e-4, atol=0)
