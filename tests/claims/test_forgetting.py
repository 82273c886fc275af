"""What a policy keeps: the start itself is at no distance and right in most of its likeliest answers."""

from pathlib import Path

import pytest

from claims.forgetting import measured


def test_the_start_has_forgotten_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled, it is right in a quarter of the problems of either task."""
    monkeypatch.setattr(measured, "PROBLEMS", 12)
    start = Path("embedded")
    assert measured.kl("step_arithmetic")(start) == pytest.approx(0, abs=1e-5)
    assert measured.accuracy("spell_backward", greedy=True)(start) > 0.7
    assert measured.accuracy("spell_backward")(start) < 0.7
    for kept in (measured._held_out, measured._answers, measured._load):
        kept.cache_clear()
