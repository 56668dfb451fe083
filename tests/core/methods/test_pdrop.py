"""PyramidDrop's shares as one writes them in a list."""

from dycoke import budget
from dycoke.methods.pdrop import decimal_power


def test_a_power_is_that_of_the_decimal_digits():
    assert [decimal_power(0.7, power) for power in (1, 2, 3)] == [0.7, 0.49, 0.343]
    assert 0.7 * 0.7 < 0.49 and budget.share_floor(decimal_power(0.7, 2), 100) == 49
    assert decimal_power(1, 3) == 1.0 and decimal_power(1e-7, 2) == 1e-14
