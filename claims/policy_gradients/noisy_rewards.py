"""The task that separates: success is rare, and the reward has a constant and noise in it."""

from claims.claim import Arm, Claim, Expect, Paper
from claims.policy_gradients.short_words import RARE_SUCCESS, SUCCESS, SUCCESS_CURVE

CLAIM = Claim(
    sentence="Dividing by the standard deviation of a prompt's rewards, as GRPO does, gives prompts that teach nothing "
    "the weight of those that do; with the mean alone subtracted more is learned.",
    paper=Paper("Liu et al.", 2025, "Understanding R1-Zero-Like Training: A Critical Perspective", "2503.20783"),
    setting="The embedded model spells words of 3 to 5 letters backward at temperature 1.5, where it is right in 8 % "
    "of cases. The reward is 1 for being right, 1 for the form, which nearly all completions have, and 0.2 of "
    "standard normal noise. 16 batches of 8 prompts with 4 completions each, one optimizer step on a batch, the mean "
    "over tokens, no KL: the arms differ in the advantage alone.",
    command="policy_gradients.train",
    shared={
        **RARE_SUCCESS,
        "max_steps": 16,
        "prompts_per_step": 8,
        "group_size": 4,
        "lr": 2e-4,
        "aggregation": "token_mean",
        "reward_weights": {"format": 1.0},
        "reward_functions": {"claims.policy_gradients.noise:noise": 0.2},
    },
    arms={
        "no baseline": Arm("REINFORCE, nothing subtracted", {"algorithm": "reinforce", "baseline": "none"}),
        "running mean": Arm("REINFORCE, less the mean of earlier batches", {"algorithm": "reinforce"}),
        "ReMax": Arm(
            "less the reward of the greedy completion, which is one of the 4", {"algorithm": "remax", "group_size": 3}
        ),
        "PPO": Arm(
            "less a critic's value of each token, then whitened over the batch",
            {"algorithm": "ppo", "epochs_per_batch": 1, "critic": {"warmup_batches": 0}},
        ),
        "REINFORCE++": Arm("whitened over the batch", {"algorithm": "reinforce_plus_plus"}),
        "RLOO": Arm(
            "less the mean of the prompt's other completions, which is Dr. GRPO's times 4/3", {"algorithm": "rloo"}
        ),
        "GRPO": Arm("less the prompt's mean, by its standard deviation", {"algorithm": "grpo"}),
    },
    measures=[SUCCESS],
    expected=[
        Expect("GRPO", "<", "RLOO"),
        Expect("GRPO", "<", "REINFORCE++"),
        Expect("running mean", "<", "RLOO"),
        Expect("PPO", "<", "RLOO"),
        Expect("ReMax", "<", "RLOO"),
        Expect("ReMax", ">", "no baseline"),
        Expect("no baseline", "<", "running mean"),
        Expect("no baseline", "<", "GRPO"),
    ],
    curves=[SUCCESS_CURVE],
    text="",
)
