"""Several optimizer steps on one batch, against one: what reuse of samples is for."""

from claims.claim import Arm, Claim, Curve, Expect, Measure, Paper
from claims.measures import height, held_out, held_out_series

CLAIM = Claim(
    sentence="Four clipped optimizer steps on a batch learn more from the same samples than one step does.",
    paper=Paper("Schulman et al.", 2017, "Proximal Policy Optimization Algorithms", "1707.06347"),
    setting="GRPO from the embedded model on spell_backward, 12 batches of 8 prompts with 8 completions each.",
    command="policy_gradients.train",
    shared={
        "algorithm": "grpo",
        "max_steps": 12,
        "prompts_per_step": 8,
        "eval_every": 2,
        "eval_problems": 100,
        "lr": 1e-4,
    },
    arms={
        "1 step": Arm("one optimizer step on all prompts of a batch: on-policy", {"steps_per_batch": 1}),
        "4 steps": Arm("four optimizer steps on two prompts each, with PPO's clip", {"steps_per_batch": 4}),
    },
    measures=[
        Measure(
            "mean accuracy",
            "share right",
            "mean height of the held-out accuracy over training, by trapezoids",
            height("accuracy"),
        ),
        Measure("final accuracy", "share right", "held-out accuracy after the last step", held_out("accuracy")),
    ],
    expected=[Expect("4 steps", ">", "1 step")],
    curves=[Curve("held-out accuracy, share right", held_out_series("accuracy"))],
    seeds=10,
    text="""
A batch is sampled once and costs most of the time of a step; several optimizer steps use it several times. This is the
smallest claim here, and the one to read first: two arms, one setting between them.
""",
)
