"""Which KL estimator has the gradient of the KL, and where."""

from claims.claim import Arm, Claim, Expect, Measure, Numbers, Paper

WHAT = {
    "k1 in reward": "log pi − log ref of the completion off its reward",
    "k2 in loss": "(log pi − log ref)² / 2 of each token is minimized",
    "ratio · k3 in loss": "k3 of each token times pi / sg(pi) is minimized (DeepSeek-V3.2)",
    "k3 in loss": "ref / pi − 1 − log(ref / pi) of each token is minimized (GRPO as published)",
    "k3 in reward": "k3 of the completion off its reward",
    "k1 in loss": "log pi − log ref of each token is minimized",
    "k3 inverted in loss": "pi / ref − 1 − log(pi / ref) of each token is minimized: the ratio the wrong way round",
}
DISTANCES = [0.003, 0.01, 0.03, 0.1, 0.3]
AT = 0.3  # nats, where estimators are compared


def arm(name: str, distance: float) -> str:
    return f"{name}, KL {distance:g}"


def compute(seed: int) -> Numbers:
    from claims.computed.kl_gradients import errors

    return {arm(name, distance): its for (name, distance), its in errors(seed, DISTANCES).items()}


def at(name: str) -> str:
    return arm(name, AT)


TINY = 1e-6  # what rounding leaves
CLAIM = Claim(
    sentence="k1 in the reward has the gradient of the completion's KL, k2 in the loss that of the next token's; k3 in "
    "the loss has another, k1 there none.",
    paper=Paper("Tang and Munos", 2025, "On a few pitfalls in KL divergence gradient estimation for RL", "2506.09477"),
    setting="Exact sums over the 15 completions (1-3 tokens) of a random policy; a seed is a policy and a reference.",
    compute=compute,
    arms={
        arm(name, distance): Arm(what, line=name, x=distance) for name, what in WHAT.items() for distance in DISTANCES
    },
    x="KL(policy || reference) of completions, nats",
    log_x=True,
    measures=[
        Measure(
            "error, next tokens",
            "of the exact gradient's length",
            "distance of the expected gradient from that of the next token's KL, summed over the states that the "
            "policy visits, as they are; 0 is exact, 1 is no better than no gradient",
        ),
        Measure(
            "error, completions",
            "of the exact gradient's length",
            "the same distance from the gradient of KL(policy || reference) of whole completions",
        ),
        Measure(
            "spread",
            "of the exact gradient's length",
            "standard deviation of the gradient that one sampled completion gives, by the length of the exact gradient "
            "of whole completions",
            ratio=True,
        ),
    ],
    expected=[
        Expect(at("k2 in loss"), "=", 0.0, within=TINY),
        Expect(at("k3 in loss"), ">", at("k2 in loss")),
        Expect(at("k1 in loss"), "=", 1.0, within=TINY),
        Expect(at("k1 in reward"), "=", 0.0, of="error, completions", within=TINY),
    ],
    beside=[
        Expect(at("ratio · k3 in loss"), "=", 0.0, within=TINY),
        Expect(at("k3 inverted in loss"), ">", at("k3 in loss")),
        Expect(at("k3 in reward"), ">", at("k1 in reward"), of="error, completions"),
        Expect(at("k2 in loss"), "<", at("k1 in reward"), of="spread"),
    ],
    seeds=20,
    text="""
A penalty in the loss is charged to its own token, so the best that it can be is the first measure's 0: it takes the
states that completions come to as they are. k1 in the reward holds each token responsible for what follows, so it is
exact for whole completions, and for that it is noisier (`spread`). Which of the two is wanted is a choice; the others
are neither. k3 in the loss has the gradient of KL(reference || policy): close to the reference the two divergences
agree, so its error falls with the distance, and so does that of the inverted ratio, which explodes further away. k3 in
the reward is no penalty close to the reference: its error is that of no gradient at all. k1 in the loss has a gradient
of mean 0: all that it adds is its spread.

That k3 with the ratio is exact is DeepSeek-V3.2's; the inverted ratio is a mistake of public code
([mistakes](../mistakes.md)). The same equalities are in [KL, exactly](../kl.md), and tests hold them. Nothing here is
sampled: seeds are other policies and nothing else. Distances above 0.3 nats were tried and left out of the picture: the
error of the inverted ratio is 10 at 1 nat and grows without bound.
""",
)
