"""Scan orders: small grids written out, and what holds for all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transmamba_kernels import scan_orders

# 0 1 2        0 1 2 3
# 3 4 5        4 5 6 7
#              8 9 10 11
SMALL = {
    "raster": [[0, 1, 2, 3, 4, 5]],
    "column": [[0, 3, 1, 4, 2, 5]],
    "snake": [[0, 1, 2, 5, 4, 3]],
    "column_snake": [[0, 3, 4, 1, 2, 5]],
    "diagonal": [[0, 1, 3, 2, 4, 5]],
    "cross_scan": [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]],
    "plain_mamba": [[0, 1, 2, 5, 4, 3], [3, 4, 5, 2, 1, 0], [0, 3, 4, 1, 2, 5], [5, 2, 1, 4, 3, 0]],
}
LARGER = {
    "column": [[0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]],
    "snake": [[0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11]],
    "column_snake": [[0, 4, 8, 9, 5, 1, 2, 6, 10, 11, 7, 3]],
    "diagonal": [[0, 1, 4, 2, 5, 8, 3, 6, 9, 7, 10, 11]],
    # PlainMamba's backward walks start where the forward ones end: in the corner that the parity of the grid gives.
    "plain_mamba": [
        [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11],
        [11, 10, 9, 8, 4, 5, 6, 7, 3, 2, 1, 0],
        [0, 4, 8, 9, 5, 1, 2, 6, 10, 11, 7, 3],
        [3, 7, 11, 10, 6, 2, 1, 5, 9, 8, 4, 0],
    ],
}
ON_A_GRID = tuple(SMALL)
IN_VIDEO = ("space_first", "time_first")
sizes = st.integers(min_value=1, max_value=9)


def is_order(orders, length):
    assert orders.dtype == torch.int64
    assert orders.is_contiguous()
    return torch.equal(orders.sort(dim=-1).values, torch.arange(length).expand(len(orders), length))


@pytest.mark.parametrize("name", SMALL)
def test_two_by_three(name):
    assert getattr(scan_orders, name)(2, 3).tolist() == SMALL[name]


@pytest.mark.parametrize("name", LARGER)
def test_three_by_four(name):
    assert getattr(scan_orders, name)(3, 4).tolist() == LARGER[name]


def test_diagonals_back_and_forth():
    assert scan_orders.diagonal(2, 3, snake=True).tolist() == [[0, 1, 3, 4, 2, 5]]
    assert scan_orders.diagonal(3, 4, snake=True).tolist() == [[0, 1, 4, 8, 5, 2, 3, 6, 9, 10, 7, 11]]


def test_video():
    # Two frames of one row and three columns, and the other way round.
    assert scan_orders.space_first(2, 1, 3).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert scan_orders.time_first(2, 1, 3).tolist() == [[0, 3, 1, 4, 2, 5]]
    assert scan_orders.time_first(2, 2, 2).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]]


def test_both_ways():
    assert scan_orders.bidirectional(4).tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    orders = torch.tensor([[0, 2, 1], [1, 0, 2]])
    assert scan_orders.reverse(orders).tolist() == [[1, 2, 0], [2, 0, 1]]
    assert scan_orders.both_ways(orders).tolist() == [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1]]


@given(sizes, sizes, st.sampled_from(ON_A_GRID))
@settings(max_examples=200, deadline=None)
def test_every_order_is_a_permutation(height, width, name):
    assert is_order(getattr(scan_orders, name)(height, width), height * width)


@given(sizes, sizes, sizes, st.sampled_from(IN_VIDEO))
@settings(max_examples=50, deadline=None)
def test_every_order_of_a_video_is_a_permutation(frames, height, width, name):
    assert is_order(getattr(scan_orders, name)(frames, height, width), frames * height * width)


def distances(orders, width):
    """Rows and columns that each step moves by."""
    rows, columns = orders // width, orders % width
    return rows.diff(dim=-1).abs(), columns.diff(dim=-1).abs()


@given(sizes, sizes)
@settings(max_examples=50, deadline=None)
def test_snakes_step_to_neighbours(height, width):
    rows, columns = distances(scan_orders.plain_mamba(height, width), width)
    assert (rows + columns == 1).all()
    rows, columns = distances(scan_orders.diagonal(height, width, snake=True), width)
    assert torch.maximum(rows, columns).le(1).all()


@given(sizes, sizes)
@settings(max_examples=50, deadline=None)
def test_columns_are_the_rows_of_the_transposed_grid(height, width):
    transposed = torch.arange(height * width).reshape(height, width).T.flatten()
    for rows, columns in (("raster", "column"), ("snake", "column_snake")):
        expected = transposed[getattr(scan_orders, rows)(width, height)]
        assert torch.equal(getattr(scan_orders, columns)(height, width), expected)


@given(sizes, sizes, st.sampled_from(ON_A_GRID))
@settings(max_examples=50, deadline=None)
def test_inverse(height, width, name):
    orders = getattr(scan_orders, name)(height, width)
    back = scan_orders.inverse(orders)
    steps = torch.arange(height * width).expand_as(orders)
    assert torch.equal(orders.gather(-1, back), steps)
    assert torch.equal(back.gather(-1, orders), steps)
    assert torch.equal(scan_orders.reverse(scan_orders.reverse(orders)), orders)


def test_with_token():
    both = scan_orders.bidirectional(4)
    assert scan_orders.with_token(both, 0).tolist() == [[0, 1, 2, 3, 4], [0, 4, 3, 2, 1]]
    assert scan_orders.with_token(both, 2).tolist() == [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]]
    assert scan_orders.with_token(both, 4).tolist() == [[0, 1, 2, 3, 4], [3, 2, 1, 0, 4]]
    # Two by two by columns, the token in the middle: 0 1 (2) 3 4 is its canonical order.
    assert scan_orders.with_token(scan_orders.column(2, 2), 2).tolist() == [[0, 3, 2, 1, 4]]
    front = scan_orders.both_ways(scan_orders.with_token(scan_orders.space_first(1, 1, 3), 0))
    assert front.tolist() == scan_orders.bidirectional(4).tolist()


@given(sizes, sizes, st.data())
@settings(max_examples=50, deadline=None)
def test_with_token_keeps_the_walk(height, width, data):
    length = height * width
    position = data.draw(st.integers(0, length))
    orders = scan_orders.cross_scan(height, width)
    more = scan_orders.with_token(orders, position)
    assert is_order(more, length + 1)
    assert more[:, position].eq(position).all()
    rest = more[more != position].reshape(4, length)
    assert torch.equal(rest - (rest > position).long(), orders)


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, None, "3"])
@pytest.mark.parametrize(
    ("name", "arguments"), [*((n, ("height", "width")) for n in ON_A_GRID), ("bidirectional", ["length"])]
)
def test_sizes_are_positive(name, arguments, bad):
    for wrong in arguments:
        with pytest.raises(ValueError, match=f"{wrong} must be a positive int, got {bad!r}"):
            getattr(scan_orders, name)(**{argument: bad if argument == wrong else 3 for argument in arguments})


@pytest.mark.parametrize("name", IN_VIDEO)
def test_sizes_of_a_video_are_positive(name):
    for wrong in ("frames", "height", "width"):
        with pytest.raises(ValueError, match=f"{wrong} must be a positive int, got 0"):
            getattr(scan_orders, name)(**{"frames": 2, "height": 2, "width": 2, wrong: 0})


@pytest.mark.parametrize("bad", [-1, 5, 1.0, None, True])
def test_the_position_is_one_of_the_sequence(bad):
    with pytest.raises(ValueError, match=r"position must be an int from 0 to 4, the length of the orders, got"):
        scan_orders.with_token(scan_orders.bidirectional(4), bad)
