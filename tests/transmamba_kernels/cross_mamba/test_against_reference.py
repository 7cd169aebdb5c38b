"""The scan of one modality read, started or steered by another: against the float64 reference and by identities."""

import pytest
import torch

from tests.tolerances import assert_all_close, assert_close
from tests.transmamba_kernels.cross_mamba.cases import make_inputs, run
from tests.transmamba_kernels.selective_scan.cases import coefficients
from transmamba_kernels import bidirectional_scan, cross_mamba, selective_scan

pytestmark = pytest.mark.usefixtures("poison")
BOTH_WAYS = pytest.mark.parametrize("bidirectional", [True, False])


def check(inputs, **options):
    dtype = inputs["u"].dtype
    expected, actual = run(inputs, "reference", **options), run(inputs, "cpp", **options)
    assert_all_close(actual, expected, dtype)


def query(inputs, length, kind="time"):
    """The same inputs with the tokens of another modality to read the last state, and their gate."""
    batch, d_inner, _ = inputs["u"].shape
    C = coefficients(kind, batch, d_inner, inputs["A"].shape[1], length, 2, dtype=inputs["u"].dtype)
    z = None if inputs["z"] is None else torch.randn(batch, length, d_inner, dtype=inputs["u"].dtype).transpose(1, 2)
    return {**inputs, "C": C, "C_text": None, "gate": None, "D": None, "z": z}


@BOTH_WAYS
@pytest.mark.parametrize("text", ["constant", "time", "groups", "constant_groups"])
@pytest.mark.parametrize("image", [None, "time", "groups"])
def test_readers(text, image, bidirectional):
    check(make_inputs(2, 20, 70, 5, text=text, image=image), bidirectional=bidirectional)


@pytest.mark.parametrize("gate", [(), (1,), (5,)], ids=str)
@pytest.mark.parametrize("text", ["constant", "time"])
def test_gate(gate, text):
    check(make_inputs(2, 20, 70, 5, text=text, image="time", gate=gate))


@BOTH_WAYS
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (1, 16, 64, 16), (3, 34, 129, 2), (2, 6, 5, 9)], ids=str)
def test_shapes(shape, bidirectional, isa):
    check(make_inputs(*shape, per_sample_bias=True), bidirectional=bidirectional)


@pytest.mark.parametrize("layout", ["channel_last", "channel_first", "chunk", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_layouts_and_dtypes(layout, dtype, threads):
    check(make_inputs(2, 38, 71, 6, layout=layout, dtype=dtype))


@pytest.mark.parametrize("without", [("z",), ("D",), ("D", "z", "delta_bias", "initial_state")])
def test_optional_arguments(without):
    check(make_inputs(without=without))


@BOTH_WAYS
@pytest.mark.parametrize("kind", ["time", "groups", "constant"])
@pytest.mark.parametrize("without", [(), ("z",), ("delta_bias", "initial_state")])
def test_last_state(kind, without, bidirectional):
    inputs = query(make_inputs(2, 20, 9, 5, without=without), 31, kind)
    if kind == "constant":
        inputs["z"] = None
    check(inputs, bidirectional=bidirectional, of_last_state=True)


@BOTH_WAYS
@pytest.mark.parametrize("of_last_state", [False, True])
def test_masked_tokens_leave_the_state_alone(bidirectional, of_last_state):
    inputs = make_inputs(3, 20, 12, 5, text="time")
    if of_last_state:
        inputs = query(inputs, 7)
    mask = torch.arange(12) < torch.tensor([12, 5, 1]).unsqueeze(1)
    options = {"bidirectional": bidirectional, "of_last_state": of_last_state, "mask": mask}
    check(inputs, **options)
    out = cross_mamba(**inputs, delta_softplus=True, **options)
    for b, length in enumerate((12, 5, 1)):
        one = {name: t[b : b + 1] if t is not None and t.dim() > 2 else t for name, t in inputs.items()}
        one["A"] = inputs["A"]
        for name in ("u", "delta", "B") if of_last_state else ("u", "delta", "B", "C_text", "z"):
            one[name] = one[name][..., :length]
        alone = cross_mamba(**one, delta_softplus=True, bidirectional=bidirectional, of_last_state=of_last_state)
        shown = out[b : b + 1] if of_last_state else out[b : b + 1, :, :length]
        assert_close(shown, alone.double(), torch.float32)


@BOTH_WAYS
def test_masked_without_softplus(bidirectional):
    inputs = make_inputs(2, 20, 12, 5)
    for name in ("delta", "delta_bias"):
        inputs[name] = inputs[name].abs() * 0.2
    mask = torch.rand(2, 12) > 0.3
    mask[:, 0] = True
    results = [
        cross_mamba(
            **{k: None if t is None else t.to(dtype) for k, t in inputs.items()},
            mask=mask, bidirectional=bidirectional, backend=backend,
        )
        for backend, dtype in (("cpp", torch.float32), ("reference", torch.float64))
    ]  # fmt: skip
    assert_close(*results, torch.float32)


def test_a_gate_of_zero_is_the_scan_without_text():
    inputs = make_inputs(2, 20, 70, 5, text="constant", image="time", gate=())
    inputs["gate"] = torch.zeros(())
    plain = {name: t for name, t in inputs.items() if name not in ("C_text", "gate")}
    assert torch.equal(cross_mamba(**inputs, delta_softplus=True), bidirectional_scan(**plain, delta_softplus=True))


def test_state_mode_is_one_scan_over_both_modalities():
    text, image = make_inputs(2, 20, 9, 5, text="time"), make_inputs(2, 20, 30, 5, text="time")
    image["A"], image["delta_bias"] = text["A"], text["delta_bias"]
    names = ("u", "delta", "A", "B", "delta_bias")
    shared = {name: text[name] for name in names}
    _, state = selective_scan(**shared, C=text["C_text"], delta_softplus=True, return_last_state=True)
    started = {**{name: image[name] for name in (*names, "C_text")}, "initial_state": state}
    out = cross_mamba(**started, delta_softplus=True, bidirectional=False)
    joined = {name: torch.cat([text[name], image[name]], dim=-1) for name in ("u", "delta", "B", "C_text")}
    together = selective_scan(
        joined["u"], joined["delta"], text["A"], joined["B"], joined["C_text"], delta_bias=text["delta_bias"],
        delta_softplus=True,
    )  # fmt: skip
    assert_close(out, together[..., 9:].double(), torch.float32)


def test_same_bits_from_run_to_run(threads):
    inputs = make_inputs(4, 50, 100, 16, text="constant", image="time", gate=())
    first, second = run(inputs, "cpp"), run(inputs, "cpp")
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("shape", [(0, 8, 5, 3), (2, 8, 0, 3)], ids=["empty batch", "length 0"])
def test_empty(shape):
    assert cross_mamba(**make_inputs(*shape)).shape == shape[:3]
