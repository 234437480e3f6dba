"""What rows a metric's value makes, and how they are printed."""

import pytest

from luzpy.metrics.values import format_value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (0.5, "0.5"),
        (1.0, "1"),
        (1.00004, "1"),
        (1234.5, "1234.5"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (-0.25, "-0.25"),
        (1234567.0, "1.23457e+06"),
    ],
)
def test_values_are_printed_with_four_decimals(value, text):
    assert format_value(value) == text
