"""A reward model that learned from people who like long answers."""

from claims.claim import Arm, Claim, Expect, Measure, Paper, RunOf
from claims.reward_models.judged import RUN, SETTING, Judged, by, learning_from, pairs


def with_length(judged: Judged) -> float:
    """Rank correlation."""
    from reward_models.metrics import length_correlation

    return length_correlation(judged.score.ravel(), judged.length.ravel())


CLAIM = Claim(
    sentence="A reward model that learns from labels by length pays more for length, and errs more where "
    "the right is shorter.",
    paper=Paper("Singhal et al.", 2023, "A Long Way to Go: Investigating Length Correlations in RLHF", "2310.03716"),
    setting=SETTING,
    command="reward_models.train_preference_rm",
    before={
        "right": pairs(),
        "by length": pairs(label_noise=0.5, noise="longer"),
    },
    shared=RUN,
    arms={
        "right labels": Arm("the right completion is chosen", learning_from(RunOf("right"))),
        "half by length": Arm("in half of the pairs the longer one is chosen", learning_from(RunOf("by length"))),
    },
    measures=[
        Measure(
            "length correlation",
            "Spearman's rho",
            "rank correlation of score and length over all completions",
            by(with_length),
        ),
        Measure(
            "accuracy, right one shorter",
            "share of pairs",
            "pairs whose right completion is the shorter one and has the higher score",
            by(lambda judged: judged.accuracy(shorter=True)),
        ),
        Measure("accuracy", "share of pairs", "all pairs of a right and a wrong completion", by(Judged.accuracy)),
    ],
    expected=[
        Expect("half by length", ">", "right labels", of="length correlation"),
        Expect("half by length", "<", "right labels", of="accuracy, right one shorter"),
    ],
    text="""
Where the longer one is chosen in half of the pairs, score and length go together, and of pairs whose right completion
is the shorter one the model ranks 0.42 right: fewer than by chance. Over all pairs it loses 0.05, which five seeds do
not tell from 0. Who measures accuracy alone hardly sees it. What a policy makes of such a model was not run.
""",
)
