"""The task that separates: success is rare, the reward is noisy, and a prompt has four completions."""

from claims.claim import Arm, Claim, Expect, Paper
from claims.policy_gradients.short_words import RARE_SUCCESS, SUCCESS, SUCCESS_CURVE

CLAIM = Claim(
    sentence="Where success is rare and the reward noisy, RLOO learns more than REINFORCE with a running mean and "
    "without, than ReMax, and than GRPO.",
    paper=Paper(
        "Ahmadian et al.",
        2024,
        "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        "2402.14740",
    ),
    setting="The embedded model spells words of 3 to 5 letters backward at temperature 1.5, where it is right in 8 % "
    "of cases. The reward is 1 for being right, 1 for the form, which nearly all completions have, and 0.2 of "
    "standard normal noise. 16 batches of 8 prompts with 4 completions each, one optimizer step on a batch, the mean "
    "over tokens, no KL, one learning rate: the arms differ in the advantage alone.",
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
        "eval_problems": 20,
    },
    arms={
        "no baseline": Arm("REINFORCE, nothing subtracted", {"algorithm": "reinforce", "baseline": "none"}),
        "running mean": Arm("REINFORCE, less the mean of earlier batches", {"algorithm": "reinforce"}),
        "ReMax": Arm(
            "less the reward of the greedy completion, which is one of the 4", {"algorithm": "remax", "group_size": 3}
        ),
        "GRPO": Arm("less the prompt's mean, by its standard deviation", {"algorithm": "grpo"}),
        "RLOO": Arm(
            "less the mean of the prompt's other completions, which is Dr. GRPO's times 4/3", {"algorithm": "rloo"}
        ),
    },
    measures=[SUCCESS],
    expected=[
        Expect("GRPO", "<", "RLOO"),
        Expect("no baseline", "<", "RLOO"),
        Expect("running mean", "<", "RLOO"),
        Expect("ReMax", "<", "RLOO"),
    ],
    beside=[
        Expect("no baseline", "<", "running mean"),
        Expect("running mean", "<", "ReMax"),
        Expect("ReMax", "<", "GRPO"),
        Expect("no baseline", "<", "ReMax"),
    ],
    curves=[SUCCESS_CURVE],
    seeds=10,
    text="""
RLOO is above all four others. Below it, no baseline is below the running mean, and ReMax is below GRPO. So the mean of
a prompt's own completions is worth 0.17 more than a running mean, and with the division by its standard deviation
nothing of that is left. The paper compares RLOO with REINFORCE and a running mean; ReMax and GRPO are this page's.

What may be behind it, and no comparison tests: at first seven of ten prompts have four wrong completions, and there
GRPO's division makes noise of 0.2 as large as success. ReMax takes off the reward of the likeliest completion. It is
right in nine of ten cases here where a sampled one is right in one of twelve, so that nearly all advantages are
negative. The running mean begins at 0, so that its first batch is REINFORCE without a baseline, and Adam remembers the
size of that gradient.

Seeds differ widely: three of ten runs fail (below 0.05) with the running mean and with GRPO, one with RLOO. The order
was expected after a run of each with seed 100. The last four comparisons were added when there were five seeds; then
five more were run. The sentence first said that "the baseline decides how much is learned"; the comparisons of the
verdict are as they were.
""",
)
