"""The entropy bonus: what a loss takes off for the entropy of the tokens' distributions.

The entropy of each distribution is raised, at the states that were sampled. That a policy which chooses otherwise comes
to other states is not in the gradient.
"""

from collections.abc import Mapping
from typing import Any

from policy_gradients.config import PolicyGradientConfig

STEP = 0.005  # He et al., "Skywork open reasoner 1", 2025, arXiv 2505.22312: how far the weight moves in a step


class EntropyBonus:
    """The weight of the entropy, which stays, or adapts to hold the entropy at a target from below.

    Below the target the weight grows by 0.005 in every optimizer step, above it falls, down to 0, and does not act.
    """

    def __init__(self, config: PolicyGradientConfig):
        self.coef = config.entropy_coef
        self.target = config.entropy_target
        self.acts = True

    @property
    def weight(self) -> float:
        return self.coef if self.acts else 0.0

    def adapt(self, entropy: float) -> None:
        """To the entropy of the tokens of an optimizer step, nats per token."""
        if self.target is not None:
            self.acts = entropy < self.target
            self.coef = max(0.0, self.coef + (STEP if self.acts else -STEP))

    def state(self) -> dict[str, Any]:
        return {} if self.target is None else {"entropy_coef": self.coef, "entropy_acts": self.acts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.coef = state.get("entropy_coef", self.coef)
        self.acts = state.get("entropy_acts", self.acts)
