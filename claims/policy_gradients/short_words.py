"""What the claims of this folder share: tasks whose runs take seconds, and what is measured of a run.

The embedded model spells words of 3 to 5 letters backward: 26 tokens. Sampled at temperature 1 it is right in 39 % of
cases, at 1.5 in 8 %, and its likeliest answer is right in 90 to 96 %. So success may be common or rare, and there is
something to learn in a few batches.
"""

from claims.claim import Curve, Measure
from claims.measures import last, mean, series

SHORT_WORDS = {
    "task": "spell_backward",
    "task_config": {"min_word_len": 3, "max_word_len": 5},
    "prompts_per_step": 4,
    "group_size": 8,
    "max_new_tokens": 40,
    "lr": 3e-4,
    "kl_coef": 0.0,
    "steps_per_batch": 1,
    "eval_problems": 100,
    "eval_every": 1000,
    "save_every": 1000,
}
RARE_SUCCESS = {**SHORT_WORDS, "temperature": 1.5}

SUCCESS = Measure(
    "success",
    "share right",
    "share of the completions of all batches that are right; no problem comes twice in training",
    mean("reward/exact"),
)
ENTROPY = Measure(
    "entropy",
    "nats per token",
    "mean entropy of the distributions that the tokens of the last four batches were sampled from",
    last("policy/entropy", steps=4),
)
SUCCESS_CURVE = Curve("share of a batch that is right, mean of two batches", series("reward/exact", mean_of=2))
ENTROPY_CURVE = Curve("entropy, nats per token", series("policy/entropy"))
