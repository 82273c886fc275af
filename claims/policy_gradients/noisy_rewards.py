"""The task that separates: success is rare, and the reward has a constant and noise in it."""

from claims.claim import Arm, Claim, Expect, Paper
from claims.policy_gradients.short_words import RARE_SUCCESS, SUCCESS, SUCCESS_CURVE

CLAIM = Claim(
    sentence="Where success is rare and the reward noisy, GRPO, which divides by the standard deviation of a prompt's "
    "rewards, learns less than Dr. GRPO, which does not.",
    paper=Paper("Liu et al.", 2025, "Understanding R1-Zero-Like Training: A Critical Perspective", "2503.20783"),
    setting="The embedded model spells words of 3 to 5 letters backward at temperature 1.5, where it is right in 8 % "
    "of cases. The reward is 1 for being right, 1 for the form, which nearly all completions have, and a tenth of "
    "standard normal noise. 24 batches of 4 prompts with 8 completions each, one optimizer step on a batch, the same "
    "learning rate for all.",
    command="policy_gradients.train",
    shared={
        **RARE_SUCCESS,
        "max_steps": 24,
        "reward_weights": {"format": 1.0},
        "reward_functions": {"claims.policy_gradients.noise:noise": 0.1},
    },
    arms={
        "no baseline": Arm("REINFORCE, nothing subtracted", {"algorithm": "reinforce", "baseline": "none"}),
        "running mean": Arm("REINFORCE, less the mean of earlier batches", {"algorithm": "reinforce"}),
        "ReMax": Arm(
            "less the reward of the greedy completion, which is one of the 8", {"algorithm": "remax", "group_size": 7}
        ),
        "PPO": Arm(
            "less a critic's value", {"algorithm": "ppo", "epochs_per_batch": 1, "critic": {"warmup_batches": 0}}
        ),
        "REINFORCE++": Arm("whitened over all tokens of a batch", {"algorithm": "reinforce_plus_plus"}),
        "RLOO": Arm("less the mean of the prompt's other completions", {"algorithm": "rloo"}),
        "OPO": Arm("less the mean of the prompt's tokens", {"algorithm": "opo"}),
        "Dr. GRPO": Arm("less the mean of the prompt's completions", {"algorithm": "drgrpo"}),
        "GRPO": Arm("that, divided by their standard deviation", {"algorithm": "grpo"}),
    },
    measures=[SUCCESS],
    expected=[
        Expect("GRPO", "<", "Dr. GRPO"),
    ],
    beside=[
        Expect("no baseline", "<", "running mean"),
        Expect("running mean", "<", "RLOO"),
        Expect("ReMax", "<", "RLOO"),
        Expect("PPO", "<", "RLOO"),
        Expect("GRPO", "<", "REINFORCE++"),
        Expect("REINFORCE++", "<", "RLOO"),
        Expect("OPO", ">", "RLOO"),
    ],
    curves=[SUCCESS_CURVE],
    seeds=10,
    text="""
RLOO, OPO, Dr. GRPO and REINFORCE++ reach 0.64 to 0.81 with eight of ten seeds and cannot be told apart. With seeds 5
and 7 they learn next to nothing, but for Dr. GRPO with one of the two (0.40).

No baseline, ReMax and PPO learn next to nothing with most seeds. Without a baseline the reward's constant makes
likelier whatever was sampled. ReMax takes off the reward of the likeliest completion, which is right in nine of ten
cases, so that nearly every sampled one is worse. PPO's critic begins at 0 here and learns together with the policy; a
warm-up was not tried.

GRPO is where the claim looks, and ten seeds do not settle it: it fails with three (0.02 at most), with two of which Dr.
GRPO has 0.67 and 0.69, and is the only one that learns with seed 5 (0.45). The two differ in the aggregation as well,
each as published: GRPO takes the mean over a completion's tokens, Dr. GRPO the sum by a constant.
[Baselines](baselines.md) has one aggregation for all, fewer completions of each prompt and more noise.

The sentence was first about all baselines. It was narrowed to its paper's claim when five seeds had been run, and the
other five were run later. Measure and comparisons are as they were, but seven of the eight no longer count for the
verdict. It also said why at first: divided by the standard deviation, a prompt whose rewards differ by noise alone
weighs as much as one that teaches. No comparison tests that.
""",
)
