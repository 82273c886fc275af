"""What is said at the end."""

import pytest

from rlhf.session import before_and_after


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.25, 0.5, 0.75], "0.250 -> 0.750 [0.650, 0.850], n = 10"),
        ([0.45], "0.450 [0.350, 0.550], n = 10"),
    ],
)
def test_before_and_after(values: list[float], says: str) -> None:
    """A metric that was looked at once has not gone from anywhere to anywhere."""
    records = [{"value": value, "low": value - 0.1, "high": value + 0.1, "n": 10} for value in values]
    assert before_and_after(records) == says
    assert before_and_after([{"value": 2.0, "n": 3}]) == "2.000, n = 3"
