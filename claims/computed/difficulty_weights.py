"""How much easy and hard prompts count."""

from claims.claim import Arm, Claim, Expect, Measure, Numbers, Paper

GROUP, GROUPS = 8, 20_000
RATES = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]
HALF = 0.5  # the prompt that others are compared with
LINES = {
    "GRPO": ("grpo", "divides the advantages of a group by its standard deviation"),
    "Dr. GRPO": ("drgrpo", "subtracts the mean alone"),
    "MaxRL": ("maxrl", "divides by the mean: the gradient of log p in place of p"),
}


def arm(line: str, p: float) -> str:
    return f"{line}, {p:g}"


def compute(seed: int) -> Numbers:
    from claims.computed.prompt_weights import at_success, exact_weight, sampled_weight

    policies = {p: at_success(seed, p) for p in RATES}
    found = {}
    for line, (algorithm, _) in LINES.items():
        sampled = {p: sampled_weight(policies[p], algorithm, group_size=GROUP, groups=GROUPS, seed=seed) for p in RATES}
        exact = {p: exact_weight(algorithm, p, group_size=GROUP) for p in RATES}
        for p in RATES:
            found[arm(line, p)] = {"weight": sampled[p] / sampled[HALF], "exact weight": exact[p] / exact[HALF]}
    return found


CLAIM = Claim(
    sentence="Dividing by the standard deviation makes easy and hard prompts count more; Dr. GRPO counts all alike.",
    paper=Paper("Liu et al.", 2025, "Understanding R1-Zero-Like Training: A Critical Perspective", "2503.20783"),
    setting="Random policies of 15 completions, moved to each success rate; 20,000 groups of 8; a seed is a policy.",
    compute=compute,
    arms={arm(line, p): Arm(what, line=line, x=p) for line, (_, what) in LINES.items() for p in RATES},
    x="success rate p of the prompt",
    measures=[
        Measure(
            "weight",
            "of a prompt with p = 0.5",
            "length along grad p of the mean gradient of sampled groups, by the length of grad p, and by the same at "
            "p = 0.5",
            ratio=True,
        ),
        Measure(
            "exact weight",
            "of a prompt with p = 0.5",
            "E[adv | right] − E[adv | wrong] over all groups of 8, by the same at p = 0.5",
            ratio=True,
            drawn=False,
        ),
    ],
    expected=[
        Expect("GRPO, 0.05", ">", "Dr. GRPO, 0.05"),
        Expect("GRPO, 0.95", ">", "Dr. GRPO, 0.95"),
        Expect("Dr. GRPO, 0.05", "=", "Dr. GRPO, 0.95", within=0.1),
    ],
    beside=[
        Expect("MaxRL, 0.05", ">", "GRPO, 0.05"),
        Expect("MaxRL, 0.95", "<", "GRPO, 0.95"),
    ],
    seeds=10,
    text="""
With rewards of 0 and 1, the expected gradient of a group is that of the prompt's success rate, times a weight that
depends on the success rate alone: E[adv | right] − E[adv | wrong]. So what an algorithm makes of difficulty is a curve,
the same for every model and task, and the picture has all of it. GRPO divides by sqrt(p (1 − p)), as far as it is seen
in the group, so a prompt counts more the more certain its outcome is, easy or hard alike; a group with one outcome
gives nothing, which bounds the weight at both ends. Whether that is a bias or a use is another question: it is the
gradient of another objective (2 arcsin sqrt(p), in the limit of large groups). MaxRL divides by p: hard prompts count
more and easy ones less. What the paper says of length is another claim.
""",
)
