"""Saved students: the same model comes back, and anything else is refused with a reason."""

import json

import pytest
import torch

from transmamba.models import create_model, load_pretrained, save_pretrained

pytest.importorskip("safetensors")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("transmamba_vim_micro", d_model=16, depth=2, d_state=4, class_token="head")


def test_round_trip(model, tmp_path):
    save_pretrained(model, tmp_path / "new" / "student")
    loaded = load_pretrained(tmp_path / "new" / "student")
    images = torch.randn(2, 1, 8, 8)
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.name == model.name
    assert torch.equal(loaded(images), model.eval()(images))
    assert sorted(p.name for p in (tmp_path / "new" / "student").iterdir()) == ["config.json", "model.safetensors"]


def test_missing_files(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        load_pretrained(tmp_path / "nowhere")
    save_pretrained(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"model_type": "vit"}', "not a TransMamba student"),
        ("[]", "not a TransMamba student"),
        ('{"model": "resnet", "config": {}}', "unknown model 'resnet'"),
        ('{"model": "vim_tiny", "config": {"heads": 3}}', "no option heads"),
    ],
)
def test_foreign_config(model, tmp_path, text, message):
    save_pretrained(model, tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_damaged_or_foreign_weights(model, tmp_path):
    save_pretrained(model, tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["d_model"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit"):
        load_pretrained(tmp_path)


def test_a_failed_save_leaves_the_old_one(model, tmp_path, monkeypatch):
    save_pretrained(model, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with torch.no_grad():
        model.head.bias.add_(1)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(model, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_only_registered_models_are_saved(tmp_path):
    with pytest.raises(TypeError, match="create_model"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path)
