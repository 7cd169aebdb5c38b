"""The loop: it learns, stops anywhere, and goes on as if it had not stopped."""

import errno
import os
import signal
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from transmamba.checkpoint import CheckpointError, load_checkpoint
from transmamba.config import OptimConfig
from transmamba.interrupt import Interrupted
from transmamba.tasks import ImageData
from transmamba.train import EpochSampler, Plan, Trainer, TrainingError


class Watch:
    """Presses Ctrl-C after a given step, and remembers what it was told."""

    def __init__(self, press_at=None):
        self.press_at, self.steps, self.rows, self.started = press_at, 0, [], None

    def start(self, stage, steps, done):
        self.started = (stage, steps, done)
        self.steps = done

    def step(self, loss):
        self.steps += 1
        if self.steps == self.press_at:
            os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, row, reached):
        assert reached == f"accuracy {row['accuracy']:.2%}"
        self.rows.append(row)


def images_and_labels(n, seed):
    labels = torch.arange(n) % 3
    images = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 0.3
    images[torch.arange(n), 0, labels * 2] += 1
    return TensorDataset(images, labels)


TASK = ImageData("test", images_and_labels(20, 0), images_and_labels(12, 1), 3)


def plan(shift=0, **options):
    optim = options.setdefault("optim", OptimConfig(learning_rate=1e-2))
    augmentation = SimpleNamespace(shift=shift, flip=False, optim=optim)
    defaults = {
        "stage": "test",
        "train": TASK.train,
        "augment": lambda batch: TASK.augment(batch, augmentation),
        "epochs": 2,
        "batch_size": 8,
        "seed": 3,
    }
    return Plan(**{**defaults, **options})


def network(dropout=0.0, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3))


def trainer(plan, model, checkpoint=None, watcher=None):
    def loss(images, targets, progress):
        return F.cross_entropy(model(images), targets), {"progress": torch.tensor(progress)}

    return Trainer(plan, model, loss, partial(TASK.measure, model), checkpoint, watcher)


def equal(a, b):
    """Whether two nested states agree in every bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_it_learns_and_keeps_a_history():
    model, watch = network(), Watch()
    run = trainer(plan(epochs=8), model, watcher=watch)
    assert run.run() is None
    assert [row["step"] for row in run.history] == [3 * epoch for epoch in range(1, 9)]
    assert run.history[-1]["accuracy"] > 0.9
    assert run.history[-1]["loss"] < 0.5 * run.history[0]["loss"]
    assert run.history[1]["progress"] == pytest.approx((3 + 4 + 5) / 3 / 24)
    assert watch.started == ("test", 24, 0)
    assert watch.rows == run.history
    assert run.seconds > 0


def test_the_same_seed_gives_the_same_weights():
    states = []
    for seed in (3, 3, 4):
        model = network(0.5)
        trainer(plan(seed=seed, shift=1), model).run()
        states.append(model.state_dict())
    assert equal(states[0], states[1])
    assert not equal(states[0], states[2])


@pytest.mark.parametrize("press_at", range(1, 7))
def test_interrupted_anywhere_and_resumed_is_bit_for_bit_the_same(tmp_path, press_at):
    """With everything on: dropout, augmentation, smoothing, a running mean, parts, 16 bits."""
    options = {
        "shift": 1,
        "accumulate": 2,
        "precision": "bfloat16",
        "optim": OptimConfig(learning_rate=1e-2, label_smoothing=0.1, ema=0.9),
    }
    whole = trainer(plan(**options), network(0.5), tmp_path / "whole.pt")
    whole.run()
    path = tmp_path / "parts.pt"
    with pytest.raises(Interrupted, match=f"stopped test after step {press_at} of 6"):
        trainer(plan(**options), network(0.5), path, Watch(press_at)).run()
    assert load_checkpoint(path)["step"] == press_at
    torch.manual_seed(99)
    rest = trainer(plan(**options), network(0.5, seed=5), path)
    rest.run()
    assert equal(load_checkpoint(tmp_path / "whole.pt"), load_checkpoint(path))
    assert equal(whole.model.state_dict(), rest.model.state_dict())
    assert whole.history == rest.history


@pytest.mark.parametrize("weighting", ["adaptive", "learned"])
def test_a_distillation_resumes_bit_for_bit(tmp_path, weighting):
    """Adaptive and learned weights are part of the state, and of the running mean's."""
    transformers = pytest.importorskip("transformers")
    from transmamba.distill import DistillConfig, Distiller
    from transmamba.models import create_model
    from transmamba.teachers import create_teacher

    def run(path, watcher=None):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        shape = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 3}
        teacher = create_teacher(transformers.ViTConfig(**sizes, **shape))
        student = create_model("transmamba_vim_micro", d_model=8, depth=2, d_state=2, num_classes=3)
        distiller = Distiller(student, teacher, DistillConfig(weighting=weighting))
        optim = OptimConfig(learning_rate=1e-2, ema=0.9)
        Trainer(
            plan(optim=optim, accumulate=2), distiller, distiller.loss, partial(TASK.measure, student), path, watcher
        ).run()
        return load_checkpoint(path)

    whole = run(tmp_path / "whole.pt")
    with pytest.raises(Interrupted):
        run(tmp_path / "parts.pt", Watch(4))
    assert equal(whole, run(tmp_path / "parts.pt"))
    moved, start = {"adaptive": ("layer_weights", torch.ones(2, 2)), "learned": ("log_variance", torch.zeros(2, 2))}[
        weighting
    ]
    assert not torch.equal(whole["model"][moved], start)
    assert not torch.equal(whole["ema"][moved], start)
    assert {"cosine_forward", "cosine_backward", "task", "feature", "kd"} <= whole["history"][0].keys()


def test_a_finished_training_does_nothing(tmp_path):
    trainer(plan(), network(), tmp_path / "x.pt").run()
    watch, model = Watch(), network(seed=9)
    again = trainer(plan(), model, tmp_path / "x.pt", watch)
    again.run()
    assert (watch.started, watch.steps) == (("test", 6, 6), 6)
    assert equal(model.state_dict(), load_checkpoint(tmp_path / "x.pt")["model"])


def test_a_second_ctrl_c_stops_at_once_and_the_handler_comes_back(tmp_path):
    class Twice(Watch):
        def step(self, loss):
            super().step(loss)
            if self.steps == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stopped:
        trainer(plan(), network(), tmp_path / "x.pt", Twice()).run()
    assert not isinstance(stopped.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is before


def test_it_runs_outside_the_main_thread():
    run = trainer(plan(), network())
    thread = threading.Thread(target=run.run)
    thread.start()
    thread.join()
    assert run.step == 6


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_a_step_in_parts_is_the_same_step(accumulate):
    """The last batch of an epoch has 4 images, fewer than 8 parts."""
    whole, parts = network(), network()
    options = {"shift": 1, "optim": OptimConfig(learning_rate=1e-2, label_smoothing=0.1)}
    first, second = trainer(plan(**options), whole), trainer(plan(accumulate=accumulate, **options), parts)
    first.run()
    second.run()
    assert first.step == second.step == 6
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert [row["loss"] for row in second.history] == pytest.approx([row["loss"] for row in first.history], rel=1e-4)


def test_bfloat16_computes_in_16_bits_and_keeps_weights_in_32():
    model, seen = network(), set()
    model[1].register_forward_hook(lambda _m, _a, out: seen.add((model.training, out.dtype)))
    run = trainer(plan(epochs=8, precision="bfloat16"), model)
    run.run()
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert run.history[-1]["accuracy"] > 0.9


def test_a_loss_that_is_not_finite_stops(tmp_path):
    model = network()

    def loss(images, targets, progress):
        value = F.cross_entropy(model(images), targets)
        return (value * float("nan") if progress >= 0.7 else value), {}

    with pytest.raises(TrainingError, match=r"loss of test is nan at step 6 of 6; .*learning-rate"):
        Trainer(plan(), model, loss, dict, tmp_path / "x.pt").run()
    assert load_checkpoint(tmp_path / "x.pt")["step"] == 3
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_full_disk_stops_with_the_last_checkpoint_intact(tmp_path, monkeypatch):
    class FullDiskAfter(Watch):
        def step(self, loss):
            super().step(loss)
            if self.steps == 4:
                monkeypatch.setattr("os.fsync", full)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        trainer(plan(), network(), tmp_path / "x.pt", FullDiskAfter()).run()
    assert load_checkpoint(tmp_path / "x.pt")["step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stage": "other"}, "expected stage 'other', found 'test'"),
        ({"origin": "b"}, "expected origin 'b', found ''"),
        ({"epochs": 3}, "expected steps 9, found 6"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(tmp_path, changed, message):
    trainer(plan(), network(), tmp_path / "x.pt").run()
    with pytest.raises(CheckpointError, match=rf"x\.pt belongs to another training: {message}"):
        trainer(plan(**changed), network(), tmp_path / "x.pt").run()


def test_the_gradient_is_clipped():
    start = network().state_dict()
    moved = []
    for clip in (0.0, 1e-12):
        model = network()
        trainer(plan(epochs=1, optim=OptimConfig(weight_decay=0.0, grad_clip=clip)), model).run()
        moved.append(sum((model.state_dict()[name] - start[name]).abs().sum().item() for name in start))
    # AdamW divides by the gradient's size, but not below its epsilon of 1e-8.
    assert moved[1] < 0.01 * moved[0]


def test_sampler_covers_each_epoch_once():
    sampler = EpochSampler(10, 4, seed=1)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(index for batch in batches for index in batch) == list(range(10))
    sampler.position = 1
    assert list(sampler) == batches[1:]
    assert len(sampler) == 2
    sampler.epoch, sampler.position = 1, 0
    assert list(sampler) != batches
