"""Policy gradients: sample completions, reward them, make the better ones more likely."""

from policy_gradients.api import run

__all__ = ["run"]
