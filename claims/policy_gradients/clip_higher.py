"""DAPO's clip-higher: whether a higher upper bound of the ratio keeps the entropy up."""

from claims.claim import Arm, Claim, Expect, Paper
from claims.policy_gradients.short_words import ENTROPY, ENTROPY_CURVE, SHORT_WORDS, SUCCESS

CLAIM = Claim(
    sentence="A higher upper clip keeps the entropy up.",
    paper=Paper("Yu et al.", 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", "2503.14476"),
    setting="GRPO of the embedded model, which spells words of 3 to 5 letters backward. 12 batches of 4 prompts with "
    "8 completions each, 4 optimizer steps on each batch.",
    command="policy_gradients.train",
    shared={
        **SHORT_WORDS,
        "eval_problems": 20,
        "algorithm": "grpo",
        "max_steps": 12,
        "epochs_per_batch": 4,
        "aggregation": "token_mean",
    },
    arms={
        "0.2": Arm("ratios up to 1.2, PPO's", {"clip_high": 0.2}),
        "0.28": Arm("ratios up to 1.28, DAPO's", {"clip_high": 0.28}),
        "1.0": Arm("ratios up to 2", {"clip_high": 1.0}),
    },
    measures=[ENTROPY, SUCCESS],
    expected=[Expect("0.28", ">", "0.2"), Expect("1.0", ">", "0.2")],
    beside=[Expect("0.28", ">", "0.2", of="success")],
    curves=[ENTROPY_CURVE],
    seeds=10,
    text="""
Neither entropy nor success is seen to rise. The clip stops 1.9 % of the tokens with an upper bound of 1.2, 1.7 % with
1.28 and 1.4 % with 2, so that the whole step from PPO's bound to 2 frees one token in 200. The entropy falls from 0.15
to 0.06 nats per token within four batches in all arms. The claim is about long runs and texts with many ways on, and
neither is here: a spelling has one right letter at each place.

The paper's reason, that rare tokens can rise under a higher clip, stood in the sentence at first. No comparison tests
it.
""",
)
