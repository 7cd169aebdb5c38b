"""How the results of a backend are held against the float64 reference."""

from tests.tolerances import assert_close


def agree(actual, expected, dtype):
    """Values and gradients, by name; ``dtype`` is the lowest that took part."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(actual[name], value, dtype, name)
