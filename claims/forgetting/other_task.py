"""What a policy that was trained on one task still knows of another one, and how far it went."""

from claims.claim import Arm, Claim, Expect, Measure, Paper
from claims.forgetting.measured import PROBLEMS, accuracy, kl

TRAINED, OTHER = "step_arithmetic", "spell_backward"
DEMONSTRATIONS = {"max_steps": 24, "eval_every": 0, "save_every": 24}
SFT = {**DEMONSTRATIONS, "data": {"tasks": {TRAINED: {}}, "held_out": 100}}
RL = {"algorithm": "grpo", "task": TRAINED, "max_steps": 24, "eval_every": 0, "eval_problems": 100, "save_every": 24}
# What the start was trained on last: demonstrations of the other task, of which 55 % have a mistake.
PRETRAINING = {"tasks": {TRAINED: {}, OTHER: {}}, "wrong": {OTHER: 0.55}, "held_out": 100}

CLAIM = Claim(
    sentence="At the same accuracy on a new task, RL has forgotten less than SFT and stayed nearer to the start.",
    paper=Paper("Shenfeld et al.", 2025, "RL's Razor: Why Online Reinforcement Learning Forgets Less", "2509.04259"),
    setting=f"The embedded model, whose most likely answer to {OTHER} is right in 0.93 of problems, is trained on "
    f"{TRAINED}: SFT in 24 steps of 32 right demonstrations, GRPO in 24 steps of 16 prompts with 8 completions.",
    command="instruction_tuning.train",
    arms={
        "SFT": Arm("right demonstrations of the one task", SFT),
        "SFT + pretraining": Arm(
            "as many, and as many again of the other task as the start was trained on last",
            {**DEMONSTRATIONS, "batch_size": 64, "data": PRETRAINING},
        ),
        "RL": Arm("its own completions, by the verifier", RL, command="policy_gradients.train"),
        "RL + KL": Arm(
            "0.1 of KL(policy || start) of a completion off its reward, in nats",
            {**RL, "kl_coef": 0.1, "kl_in": "reward"},
            command="policy_gradients.train",
        ),
    },
    measures=[
        Measure(
            "other task",
            "share right",
            f"most likely answers to {PROBLEMS} held-out problems of {OTHER}",
            accuracy(OTHER, greedy=True),
        ),
        Measure(
            "KL",
            "nats",
            f"KL(policy || start) of completions of {PROBLEMS} held-out problems of {TRAINED}",
            kl(TRAINED),
        ),
        Measure(
            "trained task",
            "share right",
            f"one sampled answer to each of {PROBLEMS} held-out problems of {TRAINED}",
            accuracy(TRAINED),
        ),
    ],
    expected=[
        Expect("RL", ">", "SFT", of="other task"),
        Expect("RL", "=", "SFT", of="trained task", within=0.05),
        Expect("RL", "<", "SFT", of="KL"),
    ],
    beside=[
        Expect("SFT + pretraining", ">", "SFT", of="other task"),
        Expect("RL + KL", "<", "RL", of="KL"),
        Expect("RL + KL", ">", "RL", of="other task"),
        Expect("RL + KL", "=", "RL", of="trained task", within=0.05),
    ],
    text="""
At the same accuracy on the trained task, RL keeps 0.77 of the other one where SFT keeps 0.52, and its completions are
nearer to the start in KL. Demonstrations of the other task, mixed in, keep most of all (0.89), and stay nearest; they
need that data, and twice as many demonstrations a step. A penalty on the KL brings RL a little nearer to the start and
keeps no more of the other task. The start is right in 0.93 of its likeliest answers.
""",
)
