"""Calibration: identity at the start, padding, resampling, nothing trainable on the teacher's side; layer maps."""

import pytest
import torch
import torch.nn.functional as F

from transmamba.distill import Calibration, layer_map, resample_tokens


@pytest.mark.parametrize("mode", ["pad", "linear", "mlp"])
def test_starts_as_the_normalised_feature(mode):
    feature = torch.randn(2, 5, 8, dtype=torch.double)
    calibration = Calibration(8, 8, depth=2, mode=mode).double()
    torch.testing.assert_close(calibration(feature, 1), F.layer_norm(feature, (8,)))


def test_none_leaves_the_feature():
    feature = torch.randn(2, 5, 8)
    assert Calibration(8, 8, 1, "none")(feature, 0) is feature


@pytest.mark.parametrize(("mode", "count"), [("none", 0), ("pad", 0), ("linear", 64), ("mlp", 16 + 64 * 4 + 16 + 8)])
def test_trainable_parameters(mode, count):
    calibration = Calibration(8, 8, depth=3, mode=mode)
    assert sum(p.numel() for p in calibration.parameters()) == 3 * count
    target = calibration.teacher(torch.randn(1, 4, 8, requires_grad=True), (2, 2), (2, 2))
    assert not target.requires_grad


def test_narrow_student_is_padded_in_the_middle_or_where_it_was_cloned_from():
    feature = torch.tensor([[[1.0, 2.0]]])
    normalised = F.layer_norm(torch.tensor([[[0.0, 1.0, 2.0, 0.0]]]), (4,))
    torch.testing.assert_close(Calibration(2, 4, 1, "pad")(feature, 0), normalised)
    placed = F.layer_norm(torch.tensor([[[2.0, 0.0, 0.0, 1.0]]]), (4,))
    torch.testing.assert_close(Calibration(2, 4, 1, "pad", channels=[3, 0])(feature, 0), placed)


def test_wide_student_gets_a_padded_teacher():
    target = Calibration(6, 2, 1, "mlp").teacher(torch.tensor([[[1.0, 3.0]]]), (1, 1), (1, 1))
    torch.testing.assert_close(target, torch.tensor([[[0.0, 0, -1, 1, 0, 0]]]), rtol=1e-4, atol=1e-4)


def test_padding_lets_gradients_through():
    feature = torch.randn(1, 3, 2, requires_grad=True)
    Calibration(2, 4, 1, "mlp")(feature, 0).square().sum().backward()
    assert feature.grad.abs().sum() > 0


def test_resampling_a_ramp_keeps_it_a_ramp():
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    tokens = torch.stack([rows, columns], -1).view(1, 256, 2)
    small = resample_tokens(tokens, (16, 16), (8, 8)).view(8, 8, 2)
    # Away from the border, where the filter is cut off, pixel i of the half-size grid lies at 2 i + 1/2.
    inner = torch.tensor([4.5, 6.5, 8.5, 10.5])
    torch.testing.assert_close(small[2:6, 3, 0], inner)
    torch.testing.assert_close(small[3, 2:6, 1], inner)
    assert resample_tokens(tokens, (16, 16), (16, 16)) is tokens
    with pytest.raises(ValueError, match="49"):
        resample_tokens(tokens, (7, 7), (4, 4))


def test_bad_input():
    with pytest.raises(ValueError, match="none, pad, linear, mlp"):
        Calibration(4, 4, 1, "conv")
    with pytest.raises(ValueError, match="student 4 and teacher 8"):
        Calibration(4, 8, 1, "none")
    for channels in ([0, 0], [0], [0, 4]):
        with pytest.raises(ValueError, match="2 different indices below 4"):
            Calibration(2, 4, 1, channels=channels)
    with pytest.raises(ValueError, match="3 channels"):
        Calibration(3, 4, 1)(torch.zeros(1, 2, 4), 0)


@pytest.mark.parametrize(
    ("kind", "student", "teacher", "expected"),
    [
        ("uniform", 4, 4, [0, 1, 2, 3]),
        ("uniform", 4, 12, [2, 5, 8, 11]),
        ("uniform", 3, 4, [0, 2, 3]),
        ("uniform", 4, 6, [1, 2, 4, 5]),
        ("uniform", 6, 3, [0, 0, 1, 1, 2, 2]),
        ("uniform", 5, 1, [0, 0, 0, 0, 0]),
        ("block", 4, 12, [0, 3, 6, 9]),
        ("block", 6, 3, [0, 0, 1, 1, 2, 2]),
        ("last", 3, 5, [4, 4, 4]),
        ([1, 0, 4], 3, 5, [1, 0, 4]),
    ],
)
def test_layer_map(kind, student, teacher, expected):
    assert layer_map(kind, student, teacher) == expected


def test_bad_layer_map():
    with pytest.raises(ValueError, match="'uniform', 'block', 'last'"):
        layer_map("first", 3, 3)
    with pytest.raises(ValueError, match="each of 3"):
        layer_map([0, 1], 3, 3)
    with pytest.raises(ValueError, match="from 0 to 2"):
        layer_map([0, 1, 3], 3, 3)
    with pytest.raises(TypeError, match="ints"):
        layer_map([0.0, 1, 2], 3, 3)


def test_videos_are_resampled_frame_by_frame():
    tokens = torch.randn(2, 4 * 9, 3)
    frames = tokens.view(2, 4, 9, 3)
    small = resample_tokens(tokens, (4, 3, 3), (2, 2, 2)).view(2, 2, 4, 3)
    for t in (0, 1):
        expected = resample_tokens(frames[:, 2 * t : 2 * t + 2].mean(1), (3, 3), (2, 2))
        torch.testing.assert_close(small[:, t], expected)
    for grid in (None, (3, 3, 3), (6, 6)):
        with pytest.raises(ValueError, match="cannot be resampled"):
            resample_tokens(tokens, (4, 3, 3), grid)
    assert resample_tokens(tokens, None, None) is tokens


def test_layers_of_different_width():
    calibration = Calibration([2, 6], 4, 2, "pad", channels=[[3, 0], [5, 1, 2, 4]])
    narrow = calibration(torch.tensor([[[1.0, 2.0]]]), 0)
    torch.testing.assert_close(narrow, F.layer_norm(torch.tensor([[[2.0, 0.0, 0.0, 1.0]]]), (4,)))
    wide = torch.randn(1, 1, 6)
    torch.testing.assert_close(calibration(wide, 1), F.layer_norm(wide, (6,)))
    feature = torch.randn(1, 1, 4)
    target = F.layer_norm(feature, (4,))
    torch.testing.assert_close(calibration.teacher(feature, (1, 1), (1, 1), 0), target)
    torch.testing.assert_close(calibration.teacher(feature, (1, 1), (1, 1), 1)[..., [5, 1, 2, 4]], target)
    with pytest.raises(ValueError, match="one width for each of 3 layers"):
        Calibration([2, 6], 4, 3)
