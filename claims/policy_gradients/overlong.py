"""Completions that run into the length limit: kept, left out of the loss, or punished, softly or all at once."""

from claims.claim import Arm, Claim, Curve, Expect, Measure, Paper
from claims.measures import last, series
from claims.policy_gradients.short_words import SHORT_WORDS, SUCCESS

LIMIT = 36  # tokens

CLAIM = Claim(
    sentence="Punishing completions softly as they come near the length limit makes fewer of them run into it and more "
    "come out right; leaving cut ones out of the loss makes more come out right too.",
    paper=Paper("Yu et al.", 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", "2503.14476"),
    setting="The embedded model calculates step by step with 3 to 5 terms, which takes it 21, 30 and 41 tokens, and "
    f"may write {LIMIT}. So what it knows of 5 terms is cut, and must be said in less or left. 24 batches of 4 prompts "
    "with 8 completions each, one optimizer step on a batch, GRPO's advantage and the mean over tokens.",
    command="policy_gradients.train",
    shared={
        **SHORT_WORDS,
        "eval_problems": 20,
        "task": "step_arithmetic",
        "task_config": {"min_terms": 3, "max_terms": 5},
        "max_new_tokens": LIMIT,
        "max_steps": 24,
        "algorithm": "grpo",
        "aggregation": "token_mean",
    },
    arms={
        "kept": Arm("a cut completion is wrong, and no more than that", {"truncated": "keep"}),
        "left out": Arm("it is not in the loss (overlong filtering)", {"truncated": "mask"}),
        "soft": Arm(
            "up to 1 off the reward, growing over the last fifth of the limit (overlong shaping)",
            {"truncated": "penalize", "overlong_buffer": 0.2},
        ),
        "hard": Arm("1 off the reward of a cut completion", {"truncated": "penalize", "overlong_buffer": 0.0}),
    },
    measures=[
        Measure(
            "truncated",
            "share of completions",
            "completions of the last six batches that were cut",
            last("length/truncated", steps=6),
        ),
        Measure("length", "tokens", "their mean length", last("length/mean", steps=6)),
        SUCCESS,
    ],
    expected=[
        Expect("soft", "<", "kept", of="truncated"),
        Expect("soft", ">", "kept", of="success"),
        Expect("left out", ">", "kept", of="success"),
    ],
    beside=[
        Expect("hard", "<", "kept", of="truncated"),
        Expect("soft", "<", "hard", of="length"),
    ],
    curves=[
        Curve("share of a batch that was cut, mean of three batches", series("length/truncated", mean_of=3)),
        Curve("share of a batch that is right, mean of three batches", series("reward/exact", mean_of=3)),
    ],
    seeds=10,
    text="""
Both punishments take away most cut completions, 0.32 to 0.03 and 0.05, and half of the right ones or more. Softly
punished, the policy ends at 14 tokens, fewer than the steps of three terms take, and 0.12 of all its completions are
right where 0.31 are without punishment: a third of the problems takes more than the limit as the model calculates them,
so that to be short is the surest reward here. The paper's limit is far above what an answer needs. Leaving cut
completions out of the loss changes nothing that is seen.
""",
)
