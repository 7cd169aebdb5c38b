"""The benchmarks time nothing that is wrong, and say what they leave out."""

import pytest
import torch

from benchmarks import variants
from benchmarks.overhead import record
from benchmarks.peers import Peer
from benchmarks.rows import Measurements
from benchmarks.verify import largest_error
from transmamba_kernels import native, selective_scan


def square(x):
    return x * x


def wrong_gradient(x):
    return x.detach() * x


def not_a_number(x):
    return x / 0 * 0


INPUTS = (torch.arange(1.0, 5.0),)
UPSTREAM = torch.ones(4)


def passed(found, upstream):
    measurements = Measurements()
    names = variants.correct_ones(found, square, INPUTS, upstream, "a shape", measurements)
    return list(names), measurements.left_out


def test_a_wrong_variant_is_reported_and_not_timed():
    found = {"ours": square, "wrong": lambda x: 1.001 * x * x, "nan": not_a_number, "gradient": wrong_gradient}
    names, left_out = passed(found, None)
    assert names == ["ours", "gradient"]
    assert "WRONG: relative error 1.0e-03" in left_out["wrong at a shape"]
    assert "not finite" in left_out["nan at a shape"]
    names, left_out = passed({"ours": square, "gradient": wrong_gradient}, UPSTREAM)
    assert names == ["ours"]
    assert "WRONG" in left_out["gradient at a shape"]


def test_ours_being_wrong_fails_the_benchmark():
    with pytest.raises(AssertionError, match="WRONG: relative error"):
        passed({"ours": lambda x: 2 * x * x, "peer": square}, None)


def test_error_of_a_wrong_shape_is_infinite():
    assert largest_error([torch.zeros(2)], [torch.zeros(3)]) == float("inf")


def test_a_missing_peer_says_how_to_install_it():
    known = [Peer("theirs", "torch_loop", "no_such_package", "pip install it"), Peer("loop", "torch_loop")]
    measurements = Measurements()
    names = [name for name, _ in variants.peers("selective_scan", known, 8, False, measurements)]
    assert names == ["loop"]
    assert measurements.left_out == {"theirs": "no_such_package is not installed: pip install it"}


def test_a_quadratic_peer_is_not_trained_on_long_sequences():
    known = [Peer("slow", "torch_loop", trains_up_to=8)]
    measurements = Measurements()
    assert [n for n, _ in variants.peers("selective_scan", known, 8, True, measurements)] == ["slow"]
    assert [n for n, _ in variants.peers("selective_scan", known, 9, False, measurements)] == ["slow"]
    assert [n for n, _ in variants.peers("selective_scan", known, 9, True, measurements)] == []
    assert "quadratic" in measurements.left_out["slow training"]


def test_the_kernel_call_of_an_op_is_recorded_and_can_be_repeated():
    u, delta = torch.randn(2, 1, 4, 6)
    A, B, C = -torch.rand(4, 3), torch.randn(1, 3, 6), torch.randn(1, 3, 6)
    outputs = []
    kernel, arguments = record(lambda: outputs.append(selective_scan(u, delta, A, B, C)))
    assert native.load().__name__.endswith("_native")
    expected = outputs[0].clone()
    outputs[0].zero_()
    kernel(*arguments)
    assert torch.equal(outputs[0], expected)
