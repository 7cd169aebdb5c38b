"""Data sets: what is loaded, what is refused, subsets, the augmentation, accuracy."""

import gzip
import struct

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from transmamba.tasks import accuracy, load_images, random_shift, subset
from transmamba.tasks.classification import smooth
from transmamba.tasks.images import read_idx


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion(tmp_path):
    """The published layout with 20 + 10 images, half of the files compressed."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 20), ("t10k", 10)):
        images = rng.integers(0, 256, (n, 28, 28))
        images[0, 0, :2] = 0, 255
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(n) % 10))
    return tmp_path


def test_digits_are_split_for_good():
    pytest.importorskip("sklearn")
    first, second = load_images("digits"), load_images("digits")
    assert (first.channels, first.size, first.num_classes) == (1, 8, 10)
    assert (len(first.train), len(first.test)) == (1433, 364)
    assert torch.equal(first.test.tensors[0], second.test.tensors[0])
    images, labels = first.train.tensors
    assert images.min() == -1
    assert images.max() == 1
    assert labels.dtype == torch.int64
    shares = [tensor.bincount() / len(tensor) for tensor in (labels, first.test.tensors[1])]
    assert (shares[0] - shares[1]).abs().max() < 0.005
    seen = {image.numpy().tobytes() for image in images}
    assert sum(image.numpy().tobytes() in seen for image in first.test.tensors[0]) == 0


def test_fashion_mnist_from_a_folder(fashion):
    data = load_images("fashion-mnist", fashion)
    assert data.train.tensors[0].shape == (20, 1, 28, 28)
    assert data.train.tensors[0][0, 0, 0, :2].tolist() == [-1, 1]
    assert data.test.tensors[1].tolist() == list(range(10))


def test_images_are_made_to_fit_a_teacher(fashion):
    data = load_images("fashion-mnist", fashion, image_size=32, channels=3)
    assert (data.size, data.channels) == (32, 3)
    assert torch.equal(data.train.tensors[0][:, 0], data.train.tensors[0][:, 2])


def test_unknown_or_missing_data(tmp_path):
    with pytest.raises(
        ValueError, match="unknown data set 'mnist'; known: digits, fashion-mnist, cifar10, imagefolder"
    ):
        load_images("mnist")
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*apt install .*--data-dir"):
        load_images("fashion-mnist", tmp_path)
    with pytest.raises(ValueError, match="data_dir"):
        load_images("digits", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\1" + bytes(8), "not an idx file"),
        (b"\x89PNG" + bytes(40), "not an idx file"),
        (b"\0\0\x08\x03\0\0", "not an idx file"),
        (idx(np.zeros((3, 4)))[:-1], "promises 12 values, it holds 11"),
        (idx(np.zeros((3, 4))) + b"\0", "promises 12 values, it holds 13"),
        (gzip.compress(idx(np.zeros((3, 4))), mtime=0)[:-9], "damaged"),
        (b"\x1f\x8b" + bytes(30), "damaged"),
    ],
)
def test_damaged_idx_files(tmp_path, content, message):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"labels\.gz .*{message}"):
        read_idx(path)


def test_files_that_do_not_belong_together(fashion):
    (fashion / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(19)))
    with pytest.raises(ValueError, match="do not belong together"):
        load_images("fashion-mnist", fashion)


def test_subsets_keep_every_class_and_lie_in_each_other():
    labels = torch.arange(10).repeat(20)
    dataset = TensorDataset(torch.arange(200), labels)
    half, most = subset(dataset, 0.5, seed=1), subset(dataset, 0.75, seed=1)
    assert half.tensors[1].bincount().tolist() == [10] * 10
    assert most.tensors[1].bincount().tolist() == [15] * 10
    assert set(half.tensors[0].tolist()) < set(most.tensors[0].tolist())
    assert torch.equal(half.tensors[0] % 10, half.tensors[1])
    assert subset(dataset, 0.5, seed=2).tensors[0].tolist() != half.tensors[0].tolist()
    assert len(subset(dataset, 1e-6, seed=1)) == 10
    assert subset(dataset, 1.0, seed=1) is dataset
    with pytest.raises(ValueError, match="fraction"):
        subset(dataset, 0.0, seed=1)


def test_random_shift_moves_and_fills():
    images = torch.zeros(50, 2, 4, 5)
    images[:, :, 2, 2] = 7
    torch.manual_seed(0)
    moved = random_shift(images, 1)
    assert moved.shape == images.shape
    rows, columns = (moved[:, 0] == 7).nonzero()[:, 1:].T
    assert set(rows.tolist()) == {1, 2, 3}
    assert set(columns.tolist()) == {1, 2, 3}
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert set(random_shift(torch.zeros(99, 1, 2, 2), 2).unique().tolist()) == {-1.0, 0.0}
    assert random_shift(images, 0) is images


def test_accuracy_asks_in_eval_mode():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, images):
            assert not self.training
            return torch.stack([images, -images], dim=-1)

    model = Half()
    images = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    dataset = TensorDataset(images, torch.tensor([0, 1, 1, 1, 0]))
    state = torch.get_rng_state()
    assert accuracy(model, dataset, batch_size=2) == pytest.approx(0.8)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_smoothing():
    labels = torch.tensor([2, 0])
    assert smooth(labels, 4, 0.0) is labels
    torch.testing.assert_close(smooth(labels, 4, 0.2)[0], torch.tensor([0.05, 0.05, 0.85, 0.05]))
