"""Thumbs up and down, unequal in number, against the pairs that can be made of the same labels."""

from claims.claim import Arm, Claim, Expect, File, Paper, RunOf
from claims.direct_alignment.setting import ACCURACY, RUN

SAMPLED = {"problems": 500, "candidates": 2}
KTO = {"loss": "kto", "data": {"path": RunOf("labels")}, "batch_size": 32}

CLAIM = Claim(
    sentence="From the same labels, of which few are good, KTO learns more than DPO, since it needs no pairs.",
    paper=Paper("Ethayarajh et al.", 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", "2402.01306"),
    setting="1,000 labelled completions of the embedded model, two to each of 500 problems of step_arithmetic; a "
    "quarter is right. A pair is there where one of the two is right and the other wrong. 60 steps of 16 pairs, or of "
    "32 completions.",
    command="direct_alignment.train",
    before={
        "pairs": File("direct_alignment.sample_pairs", SAMPLED),
        "labels": File("direct_alignment.sample_pairs", {**SAMPLED, "rows": "labels"}),
    },
    shared={**RUN, "eval_samples": 0},
    arms={
        "DPO": Arm("the pairs alone", {"loss": "dpo", "data": {"path": RunOf("pairs")}}),
        "KTO": Arm(
            "all labels; a good one weighs as three bad ones, so that the classes do", {**KTO, "desirable_weight": 3.0}
        ),
        "KTO, weights 1": Arm("all labels, as they are", KTO),
    },
    measures=[ACCURACY],
    expected=[Expect("KTO", ">", "DPO"), Expect("KTO", ">", "KTO, weights 1")],
    text="",
)
