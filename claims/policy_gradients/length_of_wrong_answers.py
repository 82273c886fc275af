"""GRPO divides a completion's loss by its length, Dr. GRPO by a constant: what that does to wrong completions."""

from claims.claim import Arm, Claim, Curve, Expect, Measure, Paper
from claims.measures import last, series
from claims.policy_gradients.short_words import SHORT_WORDS, SUCCESS

LENGTH = Measure(
    "length of wrong completions",
    "tokens",
    "their mean length in the last six batches",
    last("length/wrong", steps=6),
)

CLAIM = Claim(
    sentence="Dividing the loss by each completion's length makes wrong completions longer than dividing by a constant "
    "or by the number of all tokens.",
    paper=Paper("Liu et al.", 2025, "Understanding R1-Zero-Like Training: A Critical Perspective", "2503.20783"),
    setting="The embedded model calculates step by step with 4 terms at temperature 1.5, where about a tenth is right "
    "and lengths vary. 24 batches of 4 prompts with 8 completions each of up to 96 tokens, one optimizer step on a "
    "batch.",
    command="policy_gradients.train",
    shared={
        **SHORT_WORDS,
        "eval_problems": 20,
        "task": "step_arithmetic",
        "task_config": {"min_terms": 4, "max_terms": 4},
        "temperature": 1.5,
        "max_new_tokens": 96,
        "max_steps": 24,
        "algorithm": "drgrpo",
    },
    arms={
        "by length": Arm("each completion's mean over its own tokens, as GRPO", {"aggregation": "sequence_mean"}),
        "by all tokens": Arm("the mean over the tokens of a step, as DAPO", {"aggregation": "token_mean"}),
        "by a constant": Arm("the sum by the longest length allowed, as Dr. GRPO", {}),
    },
    measures=[LENGTH, SUCCESS],
    expected=[Expect("by length", ">", "by a constant"), Expect("by length", ">", "by all tokens")],
    curves=[Curve("length of wrong completions, tokens", series("length/wrong", mean_of=3))],
    seeds=10,
    text="""
Nothing is seen. Both right and wrong solutions have a form that fixes their length, 36 to 40 tokens, and the embedded
model knows no other way on. With nine seeds the arms end within 3 tokens of each other. With seed 0, where no arm
learns (5 % right), the mean over all tokens runs off to 89 tokens of 96, and the other two do not: one run, so no
finding. The sentence first said that a constant "does not"; what is compared is which is longer. The claim is about
models that can go on thinking, and about runs of many more steps.
""",
)
