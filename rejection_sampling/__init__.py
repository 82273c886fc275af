"""Rejection sampling: sample completions, keep the best, learn from them; and best-of-n, which only keeps the best."""

from rejection_sampling.api import run

__all__ = ["run"]
