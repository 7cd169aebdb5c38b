"""The benchmarks on a GPU, as far as they can be run without one: floors, turns, checks and rows."""

import importlib.util

import pytest
import torch

from benchmarks import variants
from benchmarks.gpu import (
    beside,
    floors,
    parts,
    summary,
    test_causal_conv1d,
    test_decoding,
    test_directions,
    test_selective_scan,
)
from benchmarks.gpu.beside import FLOOR, Bench
from benchmarks.gpu.chip import H200, gpu_record
from benchmarks.gpu.stopwatch import interleave, sets_needed
from benchmarks.peers import GPU as PEERS
from benchmarks.peers import Peer
from benchmarks.rows import Measurements, Row
from tests.test_architecture import OPS
from transmamba_kernels import scan_orders

SHAPE = (2, 6, 9, 3)


class Theirs(Peer):
    """A package with a scan."""

    def load(self, op):
        return lambda *inputs: test_selective_scan.call(*inputs, backend="reference")


class FakeBenchmark:
    """pytest-benchmark's fixture, which calls."""

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, target, rounds):
        for _ in range(rounds):
            target()


class FakeStopwatch:
    """Makes the calls; every call takes one second more than the one before it."""

    def __init__(self):
        self.calls = 0

    def wait(self):
        pass

    def __call__(self, calls, host_seconds):
        assert host_seconds >= 0
        for call in calls:
            call()
        self.calls += 1
        return float(self.calls)


def bench(cache=1000, backends=("cpp", "reference")):
    return Bench("cpu", H200, cache, FakeStopwatch(), FakeBenchmark(), Measurements(), 3, backends)


@pytest.mark.parametrize(
    ("shape", "forward", "backward"),
    [
        ((8, 2048, 4096, 16), 0.321e-3, 0.544e-3),
        ((64, 384, 197, 16), 23.2e-6, 39.2e-6),
        ((1, 2048, 65536, 16), 0.642e-3, 1.09e-3),
        ((128, 768, 197, 16), 92.6e-6, 157e-6),
    ],
)
def test_floors_of_scans(shape, forward, backward):
    found = floors.scan_forward(shape).floor(H200)
    assert found.unit == "exponentials"
    assert found.seconds == pytest.approx(forward, rel=3e-3)
    found = floors.scan_backward(shape).floor(H200)
    assert found.unit == "instructions"
    assert found.seconds == pytest.approx(backward, rel=3e-3)


def test_work_is_counted():
    # 2 x 3 x 5 tokens of channels, 10 tokens, 4 states; bfloat16
    work = floors.scan_forward((2, 3, 5, 4))
    assert work == floors.Work(2 * (4 * 30 + 2 * 10 * 4), 30 * (4 + 4))
    assert floors.scan_forward((2, 3, 5, 4), directions=2).special == 30 * (2 * 4 + 4)
    assert floors.scan_backward((2, 3, 5, 4)).bytes == 2 * (7 * 30 + 4 * 10 * 4)
    assert floors.convolution(2, 3, 5).bytes == 2 * 2 * 30
    assert floors.convolution(2, 3, 5, backward=True).bytes == 3 * 2 * 30
    assert floors.state_update(2, 3, 4).bytes == 2 * (2 * 24 + 4 * 6 + 2 * 8) + 4 * 12
    assert floors.conv_state_update(2, 3, 4).bytes == 2 * (2 * 24 + 2 * 6) + 4 * 12


def test_the_longest_time_is_the_floor():
    slow_memory = H200._replace(bandwidth=1e9)
    found = floors.scan_forward((8, 2048, 4096, 16)).floor(slow_memory)
    assert found == floors.Floor(pytest.approx(0.539, rel=1e-3), "bytes")
    assert str(floors.Floor(92.63e-6, "exponentials")) == "floor: exponentials, 92.6 us"
    assert floors.convolution(8, 2048, 4096).floor(H200).unit == "bytes"
    assert floors.state_update(64, 5120, 16).floor(H200).unit == "bytes"


def test_inputs_taken_in_turn_are_more_than_the_cache():
    assert sets_needed(2**30, 60 * 2**20) == 2
    assert sets_needed(40 * 2**20, 60 * 2**20) == 4
    assert sets_needed(10, 60 * 2**20) == 512


def test_turns_and_medians():
    order = []
    calls = {name: [lambda name=name, i=i: order.append((name, i)) for i in range(2)] for name in "ab"}
    fake = FakeBenchmark()
    seconds = interleave(fake, calls, 3, FakeStopwatch())
    assert seconds == {"a": 1.5, "b": 2.0}  # the medians of 1, 3, 5 and of 2, 4, 6, for two calls
    warm = [("a", 0), ("a", 1)] * 2 + [("b", 0), ("b", 1)] * 2
    assert order == warm + [("a", 0), ("a", 1), ("b", 0), ("b", 1)] * 3
    assert fake.extra_info["b / a"] == pytest.approx(4 / 3)


CASES = [
    test_selective_scan.case(SHAPE),
    test_selective_scan.case(SHAPE, "channel-first"),
    test_directions.bidirectional_case(SHAPE),
    test_directions.multi_case((2, 6, 12, 3), scan_orders.cross_scan(3, 4)),
    test_directions.cross_case(SHAPE),
    test_causal_conv1d.case(SHAPE[:3], "channel-last"),
    test_causal_conv1d.case(SHAPE[:3], "channel-first"),
]


@pytest.mark.parametrize("figure", ["forward", "backward"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op} {case.name}")
def test_every_sequence_op_is_measured(case, figure):
    given = bench()
    peers = (Theirs("theirs", "", contiguous=True),) if case.op == "selective_scan" else ()
    beside.measure(given, case._replace(peers=peers), figure, floors.scan_forward(SHAPE), {FLOOR: 1.3})
    rows = given.measurements.rows
    assert {(row.op, row.case, row.device) for row in rows} == {(case.op, case.name, "gpu")}
    ours = [row for row in rows if row.ours == "cpp"]
    assert [(row.figure, row.peer, row.unit) for row in ours][:2] == [
        (figure, "-", "us"),
        (f"{figure}, ours over it", str(floors.scan_forward(SHAPE).floor(H200)), "x"),
    ]
    assert ("theirs" in {row.peer for row in rows}) == (case.op == "selective_scan")
    assert rows[-1].ours == "reference"
    assert rows[-1].peer == "cpp"
    assert rows[-1].target == 2


@pytest.mark.parametrize("case", [test_decoding.scan_case(2, 6), test_decoding.convolution_case(2, 6)])
def test_every_decoding_op_is_measured(case):
    given = bench()
    state = 0 if case.op == "state_update" else 1
    test_decoding.measure(given, case, state, floors.state_update(2, 6, 3), {})
    assert [row.ours for row in given.measurements.rows if row.unit == "us"] == ["cpp", "reference"]


def test_targets_are_of_the_cuda_kernels():
    given = bench()
    seconds = {"cuda": 1e-3, "triton": 3e-3, "mamba_ssm": 2e-3}
    work = floors.Work(4.3e9)
    beside.add_rows(
        given, "an_op", "a shape", "forward", seconds, ["cuda", "triton"], work, {FLOOR: 1.3, "mamba_ssm": 3}
    )
    rows = {(row.ours, row.peer): row for row in given.measurements.rows}
    assert rows["cuda", "-"].value == pytest.approx(1000)
    assert rows["cuda", "floor: bytes, 1e+03 us"].verdict == "met"
    assert rows["cuda", "mamba_ssm"].value == 2
    assert rows["cuda", "mamba_ssm"].verdict == "missed"
    assert rows["triton", "mamba_ssm"].target is None
    assert rows["triton", "cuda"].verdict == "missed"
    given = bench()._replace(chip=None)
    beside.add_rows(given, "an_op", "a shape", "forward", {"cuda": 1e-3}, ["cuda"], work, {})
    assert [row.peer for row in given.measurements.rows] == ["-"]


def _broken(what):
    """The scan, wrong in one place."""

    def call(u, delta, A, B, C, D, z, delta_bias, backend=None):
        if what == "gradient" and A.dtype == torch.float32:
            A = A.detach() * 0.99 + A * 0.01
        out = test_selective_scan.call(u, delta, A, B, C, D, z, delta_bias, backend)
        if what == "unwritten" and out.dtype == torch.bfloat16:
            out[0, 0, 0] = torch.nan  # a row that is not compared
        return out

    return call


@pytest.mark.parametrize(("what", "figure"), [("gradient", "backward"), ("unwritten", "forward")])
def test_what_is_wrong_is_not_timed(what, figure):
    given, case = bench(backends=("cpp",)), test_selective_scan.case(SHAPE)._replace(call=_broken(what), peers=())
    with pytest.raises(AssertionError, match="no backend is right"):
        beside.measure(given, case, figure, floors.scan_forward(SHAPE), {})
    assert "WRONG" in given.measurements.left_out[f"cpp at {case.name} {figure}"]
    assert given.measurements.rows == []


def test_a_package_that_fails_is_left_out():
    class Failing(Peer):
        def load(self, op):
            return lambda u, *others: u.view(-1, 7, 7, 7)

    given = bench(backends=("cpp",))
    case = test_selective_scan.case(SHAPE)._replace(peers=(Failing("failing", ""),))
    beside.measure(given, case, "forward", floors.scan_forward(SHAPE), {})
    assert "FAILS: RuntimeError" in given.measurements.left_out[f"failing at {case.name}"]
    assert {row.ours for row in given.measurements.rows} == {"cpp"}


def test_only_some_channels_of_a_long_shape_are_checked(monkeypatch):
    monkeypatch.setattr(beside, "MOST_STEPS", 60)
    given, case = bench(backends=("cpp",)), test_selective_scan.case(SHAPE)._replace(peers=())
    for figure in ("forward", "backward"):
        beside.measure(given, case, figure, floors.scan_forward(SHAPE), {})
    assert given.measurements.left_out == {}


def test_a_missing_backend_skips():
    with pytest.raises(pytest.skip.Exception, match="no backend on this GPU serves selective_scan"):
        beside.measure(bench(backends=()), test_selective_scan.case(SHAPE), "forward", floors.Work(1), {})


def test_uninitialised_memory_is_poisoned():
    with beside.poisoned():
        assert torch.empty(100).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_op_has_peers_or_none():
    assert sorted(PEERS) == sorted(OPS)
    for op, known in PEERS.items():
        for peer in known:
            assert peer.needs is not None
            if importlib.util.find_spec(peer.needs) is None:
                with pytest.raises(ImportError, match="BUILD=TRUE pip install"):
                    peer.load(op)


def test_parts_of_a_scan():
    found = parts.microseconds([SHAPE], FakeStopwatch(), "cpu", "cpp")
    assert list(found) == [f"{SHAPE} {part}" for part in parts.PARTS]
    assert all(value > 0 for value in found.values())


def test_a_copy_has_multiplications_for_exponentials(tmp_path):
    parts.copy_with_multiplications(tmp_path / "copy")
    text = (tmp_path / "copy" / "csrc" / "core" / "device.cuh").read_text()
    assert parts.MULTIPLICATION in text
    assert "exp2f" not in text.split("// -- lanes")[0].split("float exp2(float x)")[1]
    assert not list((tmp_path / "copy").rglob("*.so"))
    assert (tmp_path / "copy" / "setup.py").exists()


def test_a_summary_has_times_and_targets(tmp_path):
    given = bench()
    beside.add_rows(given, "an_op", "a shape", "forward", {"cuda": 1e-3}, ["cuda"], floors.Work(4.3e9), {FLOOR: 1.3})
    given.measurements.add(Row("an_op", "a shape", "forward", "cpp", "torch", 2.0))
    given.measurements.save(tmp_path / "a_gpu.json", {"gpu": "A GPU"})
    first, second = summary.lines(tmp_path / "a_gpu.json")
    assert "1e+03 us" in first
    assert second.endswith("<= 1.3 x  met")


def test_inputs_are_drawn_anew():
    for case in CASES:
        first, second = case.make_inputs("cpu"), case.make_inputs("cpu")
        assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert first[0].dtype == torch.bfloat16
        assert variants.as_id(first[0].shape)


def test_the_record_of_a_gpu(monkeypatch):
    class Properties:
        name, major, minor, multi_processor_count = "A GPU", 9, 0, 132
        total_memory, L2_cache_size = 2**37, 60 * 2**20

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    record = gpu_record()
    assert record["gpu"] == "A GPU"
    assert record["l2_mib"] == 60
    assert set(record["clocks"]) == {"sm", "mem", "max.sm", "max.mem"}
