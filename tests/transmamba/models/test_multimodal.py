"""Any visual student with a text: unchanged at the start, whole in a folder, and still itself alone."""

import pytest
import torch

from transmamba.distill import Taps
from transmamba.models import create_model, load_pretrained, save_pretrained, with_text

SMALL = {"d_model": 16, "depth": 2, "d_state": 3, "num_classes": 5}
STUDENTS = {
    "transmamba_vim_micro": {**SMALL, "class_token": "middle"},
    "transmamba_plainmamba_micro": SMALL,
    "transmamba_videomamba_micro": {**SMALL, "num_frames": 2},
    "transmamba_vmamba_micro": {"dims": (12, 20), "depths": (1, 1), "d_state": 3, "num_classes": 5},
}
MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


@pytest.fixture(params=STUDENTS)
def student(request):
    torch.manual_seed(0)
    return create_model(request.param, **STUDENTS[request.param]).eval()


@pytest.fixture
def text():
    torch.manual_seed(1)
    return create_model("transmamba_text_micro", d_model=12, depth=1, d_state=3, vocab_size=20).eval()


def inputs_of(student):
    torch.manual_seed(2)
    frames = [student.config.num_frames] if hasattr(student.config, "num_frames") else []
    return torch.randn(2, 1, *frames, 8, 8), torch.randint(20, (2, 6))


def open_gates(model):
    for cross in model.cross:
        torch.nn.init.normal_(cross.mixer.gate)


def test_at_the_start_the_student_is_unchanged_bit_for_bit(student, text):
    images, ids = inputs_of(student)
    logits = student(images)
    model = with_text(student, text)
    assert torch.equal(model(images, ids, MASK), logits)
    open_gates(model)
    assert not torch.equal(model(images, ids, MASK), logits)
    assert torch.equal(student(images), logits)


def test_questions_count_and_padding_does_not(student, text):
    images, ids = inputs_of(student)
    model = with_text(student, text, layers=(1,), mode="state")
    open_gates(model)
    logits = model(images, ids, MASK)
    ids[1, 4:] = 0
    torch.testing.assert_close(model(images, ids, MASK), logits)
    ids[0, 5] = (ids[0, 5] + 1) % 20
    changed = model(images, ids, MASK)
    assert not torch.equal(changed[0], logits[0])
    torch.testing.assert_close(changed[1], logits[1])


def test_taps_see_what_the_text_added(student, text):
    images, ids = inputs_of(student)
    model = with_text(student, text).double()
    open_gates(model)
    taps = Taps()
    feature = model.forward_features(images.double(), ids, MASK, taps)
    torch.testing.assert_close(feature, model.forward_features(images.double(), ids, MASK))
    for i, directions in taps.directions.items():
        torch.testing.assert_close(torch.stack(directions).mean(0), taps.merged[i])


def test_saved_and_loaded(student, text, tmp_path):
    pytest.importorskip("safetensors")
    model = with_text(student, text, layers=(0,), mode="query_attn", d_state=4)
    open_gates(model)
    save_pretrained(model, tmp_path)
    inputs = inputs_of(student)
    assert torch.equal(load_pretrained(tmp_path)(*inputs, MASK), model(*inputs, MASK))


def test_bad_arguments(text):
    student = create_model("transmamba_vim_micro", **SMALL)
    with pytest.raises(ValueError, match=r"layers must be some of 0 to 1, the blocks of the student, got \(2,\)"):
        with_text(student, text, layers=(2,))
    with pytest.raises(ValueError, match="student must be a model of images or videos, got 'transmamba_text_micro'"):
        with_text(text, text)
