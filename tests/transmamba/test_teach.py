"""Teachers of a run: trained once, found again, taken as given, fine-tuned; never silently another one."""

import dataclasses
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("transformers")

from transmamba.adapt import prepare
from transmamba.checkpoint import CheckpointError
from transmamba.config import TeacherConfig
from transmamba.tasks import accuracy, load_images
from transmamba.teach import build_teacher, teach, teacher_folder


def test_teacher_is_trained_once_and_reused(tiny):
    config, data = tiny(), load_images("digits")
    first, second = teach(config, data), teach(config, data)
    assert (first.origin, second.origin) == ("trained", "reused")
    assert first.weights_hash == second.weights_hash == second.teacher.weights_hash()
    assert (
        first.folder == str(teacher_folder(config)) == str(config.folder.parent / "teachers" / Path(first.folder).name)
    )
    assert accuracy(second.teacher, data.test) == pytest.approx(first.reached)
    assert not (Path(first.folder) / "teacher.pt").exists()
    other = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, seed=5))
    assert teacher_folder(other) != teacher_folder(config)
    with pytest.raises(CheckpointError, match="made with other options"):
        teach(other, data, Path(first.folder))


def test_teacher_with_other_weights_is_refused(tiny):
    config, data = tiny(), load_images("digits")
    taught = teach(config, data)
    with torch.no_grad():
        next(taught.teacher.model.parameters()).add_(1)
    taught.teacher.model.save_pretrained(taught.folder)
    with pytest.raises(CheckpointError, match="not those that were saved: expected"):
        teach(config, data)


def test_a_given_teacher_is_used_as_it_is_or_fine_tuned(tiny, tmp_path):
    config, data = tiny(), load_images("digits")
    first = teach(config, data)
    given = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, path=first.folder))
    assert teach(given, data).origin == "given"
    assert teach(given, data).weights_hash == first.weights_hash
    tuned = dataclasses.replace(given, teacher=dataclasses.replace(given.teacher, fine_tune=True))
    result = teach(tuned, data)
    assert result.origin == "fine-tuned"
    assert result.weights_hash != first.weights_hash == result.before.weights_hash()
    colour = dataclasses.replace(given, channels=3)
    with pytest.raises(ValueError, match="takes 1 image channels, the data has 3: give --channels 1"):
        build_teacher(colour, load_images("digits", channels=3))
    with pytest.raises(ValueError, match="images of size 8, the data has 16: give --image-size 8"):
        build_teacher(given, load_images("digits", image_size=16))


def test_a_teacher_of_other_classes_gets_a_new_head(tiny, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    shape = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 4}
    ViTForImageClassification(ViTConfig(**sizes, **shape)).save_pretrained(tmp_path / "vit")
    config, data = tiny(teacher=TeacherConfig(path=str(tmp_path / "vit"))), load_images("digits")
    with pytest.raises(ValueError, match="knows 4 classes, the data has 10: give --teacher.fine-tune"):
        prepare(config)
    config = tiny(teacher=TeacherConfig(path=str(tmp_path / "vit"), fine_tune=True, epochs=1, fraction=0.1))
    assert teach(config, data).teacher.num_classes == 10
    assert teach(config, data).origin == "reused"


def test_a_teacher_that_cannot_be_written_is_not_taken_for_finished(tiny, monkeypatch):
    config, data = tiny(), load_images("digits")

    def full(*_args, **_options):
        raise RuntimeError("I/O error: No space left on device")  # as safetensors says it

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", full)
        with pytest.raises(OSError, match="cannot write the teacher into .*No space left on device"):
            teach(config, data)
    assert not (teacher_folder(config) / "teacher.json").exists()
    assert teach(config, data).origin == "trained"
