"""Reward models: preference, outcome and process; trained, tested against shortcuts, usable. RLHF Book, chapter 5."""

from reward_models.api import run

__all__ = ["run"]
