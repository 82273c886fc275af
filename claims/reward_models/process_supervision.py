"""Labels of steps against labels of outcomes, when the best of several completions is chosen."""

from typing import Any

from claims.claim import Arm, Claim, Expect, Measure, Paper, SeedPlus
from claims.measures import held_out

STEPS = 250
RUN: dict[str, Any] = {
    "model_name": "embedded",
    "data": {"problems": 1200, "held_out": 200, "seed": SeedPlus()},
    "max_steps": STEPS,
    "eval_every": STEPS,
    "save_every": STEPS,
}

CLAIM = Claim(
    sentence="A reward model of steps chooses better among completions than one of outcomes.",
    paper=Paper("Lightman et al.", 2023, "Let's Verify Step by Step", "2305.20050"),
    setting="Both start from the embedded model, and learn from 8 completions of its own to each of 1,200 problems of "
    f"three-term step_arithmetic: {STEPS} steps of 64 completions, each with the settings of its own laptop profile. "
    "The labels of steps are computed.",
    command="reward_models.train_prm",
    shared=RUN,
    arms={
        "steps": Arm("learns which steps are right; a completion's score is the product over its steps"),
        "outcomes": Arm(
            "learns whether a completion is right, from pairs of a right and a wrong one",
            RUN,
            command="reward_models.train_orm",
        ),
    },
    measures=[
        Measure(
            "best of 8",
            "share right",
            "right ones among the best of 8 by score, 200 held-out problems",
            lambda run: held_out("best_of_8_product" if "steps" in run.name else "best_of_8")(run),
        )
    ],
    expected=[Expect("steps", ">", "outcomes")],
    text="""
From as many completions, in as many steps, a model of steps finds a right one among eight in 0.48 of problems, a model
of outcomes in 0.27. With seeds 0 and 1 the outcome model's AUC on held-out completions is 0.55 and 0.62: it hardly
tells right from wrong yet. A completion has one label of its outcome, and one for each of its steps, which say where
the mistake is. How often one sample is right was not measured beside them, and no longer training was run.
""",
)
