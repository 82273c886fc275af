"""The worst case of several reward models, against one of them, when the best of many completions is chosen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from claims.claim import Arm, Claim, Expect, Measure, Numbers, Paper, SeedPlus
from claims.reward_models.judged import JUDGED, Judged, judged

N = 32
STEPS = 60  # of a member: it knows something by then, and not all
MEMBERS = ("member 1", "member 2", "member 3")
WAYS: dict[str, Literal["mean", "min"]] = {"mean": "mean", "worst case": "min"}  # from the members' scores to one


def over_runs(runs: Mapping[str, Path]) -> Numbers:
    from rlhf.models.reward_model import combine

    members = [judged(runs[name]) for name in MEMBERS]
    right, length = members[0].right, members[0].length
    flat = np.stack([one.score.ravel() for one in members])
    scaled = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
    gold = {name: one.best_of(N) for name, one in zip(MEMBERS, members, strict=True)}
    gold["one member"] = float(np.mean(list(gold.values())))
    for arm, way in WAYS.items():
        gold[arm] = Judged(right, length, combine(scaled, way).reshape(right.shape)).best_of(N)
    return {arm: {"gold": value} for arm, value in gold.items()}


CLAIM = Claim(
    sentence="The worst case of an ensemble of reward models chooses better among many completions than one member.",
    paper=Paper("Coste et al.", 2023, "Reward Model Ensembles Help Mitigate Overoptimization", "2310.02743"),
    setting=f"Process reward models that start from the embedded model: {STEPS} steps of 8 problems of three-term "
    "step_arithmetic with 8 completions of its own. The members learn from the same 600 problems, in another order and "
    "from other first weights of the head. " + JUDGED,
    command="reward_models.train_prm",
    shared={
        "data": {"problems": 600, "held_out": 100, "seed": SeedPlus()},
        "max_steps": STEPS,
        "eval_every": STEPS,
        "save_every": STEPS,
    },
    arms={
        **{name: Arm("by itself", {"seed": SeedPlus(1000 * i)}) for i, name in enumerate(MEMBERS)},
        "one member": Arm("the mean of what the three choose, each by itself", None),
        "mean": Arm("the mean of the three scores, each in its own standard deviations", None),
        "worst case": Arm("the least of the three", None),
    },
    over_runs=over_runs,
    measures=[
        Measure(
            "gold", "share right", f"right ones among the best of {N}, by the scores, of each of the held-out problems"
        )
    ],
    expected=[
        Expect("worst case", ">", "one member"),
        Expect("mean", ">", "one member"),
        Expect("worst case", ">", "mean"),
    ],
    text="",
)
