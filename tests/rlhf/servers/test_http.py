"""Calls that are made again, and how long they wait."""

import pytest

from rlhf.servers.http import SHOWN, NoAnswerError, call_again, shortened, waiting_time


def test_a_server_says_how_long_to_wait() -> None:
    assert waiting_time(0, "7") == 7.0
    assert waiting_time(0, "3600") == 30.0
    assert waiting_time(1, "soon") == 1.0
    assert waiting_time(0, "Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_a_call_is_made_again_until_it_is_enough() -> None:
    """Three failures are enough: two waits, the second shortened, and the last failure is raised."""
    calls: list[int] = []
    told: list[str] = []
    waits: list[float] = []

    def call() -> None:
        calls.append(1)
        raise NoAnswerError(f"failure {len(calls)}")

    with pytest.raises(NoAnswerError, match="failure 3"):
        call_again(
            call,
            enough=lambda failures: failures == 3,
            on_failure=lambda error: told.append(str(error)),
            longest_wait_s=0.75,
            wait=waits.append,
        )
    assert (told, waits) == (["failure 1", "failure 2"], [0.5, 0.75])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", ""),
        ("\n broken \nTraceback", "broken"),
        ('{\n "error": {\n  "message": "too <long>"}}', '{ "error": { "message": "too <long>"}}'),
        ("<script>\nif (a < b) {}\n</script>\n<h1>Not\nhere</h1>", "Not"),
        ("x" * 999, "x" * SHOWN),
    ],
)
def test_of_what_a_server_says_a_message_has_one_line(body: str, says: str) -> None:
    assert shortened(body) == says
