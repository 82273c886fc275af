"""Every algorithm by name. A new one is one file beside this and one line here."""

from policy_gradients.algorithm import Algorithm
from policy_gradients.algorithms.grpo import grpo
from policy_gradients.algorithms.reinforce import reinforce

algorithms: dict[str, Algorithm] = {
    "grpo": grpo,
    "reinforce": reinforce,
}
