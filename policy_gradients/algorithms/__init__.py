"""Every algorithm by name. A new one is one file beside this and one line here."""

from policy_gradients.algorithm import Algorithm
from policy_gradients.algorithms.cispo import cispo
from policy_gradients.algorithms.dapo import dapo
from policy_gradients.algorithms.drgrpo import drgrpo
from policy_gradients.algorithms.grpo import grpo
from policy_gradients.algorithms.gspo import gspo
from policy_gradients.algorithms.maxrl import maxrl
from policy_gradients.algorithms.ppo import ppo
from policy_gradients.algorithms.reinforce import reinforce
from policy_gradients.algorithms.rloo import rloo
from policy_gradients.algorithms.sapo import sapo

algorithms: dict[str, Algorithm] = {
    "cispo": cispo,
    "dapo": dapo,
    "drgrpo": drgrpo,
    "grpo": grpo,
    "gspo": gspo,
    "maxrl": maxrl,
    "ppo": ppo,
    "reinforce": reinforce,
    "rloo": rloo,
    "sapo": sapo,
}
