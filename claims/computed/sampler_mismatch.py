"""What the gradient loses where the sampler is another distribution than the policy, and what corrections give back."""

from claims.claim import Arm, Claim, Expect, Measure, Numbers, Paper

WHAT = {
    "none": "samples are taken for the policy's own",
    "TIS": "each token weighed by pi / pi_sampler, at most 2",
    "MIS": "the same, and tokens of a weight above 2 left out",
    "IcePop": "the same, and tokens of a weight outside 0.5 to 5 left out",
    "TIS of completions": "the product of a completion's weights, at most 2",
    "MIS of completions": "the product, and completions of a weight above 2 left out",
    "product": "the product, whatever it is",
}
DISTANCES = [0.001, 0.01, 0.1, 1.0]
AT = "KL 0.1"
TOP_P, TEMPERATURE = 0.9, 0.7
BESIDE = ("none", "TIS", "TIS of completions", "product")  # shown of those two: weights below 1 are never masked
CUT, COLDER = f"top-p {TOP_P}", f"temperature {TEMPERATURE}"


def arm(name: str, sampler: str) -> str:
    return f"{name}, {sampler}"


def other(distance: float) -> str:
    return f"KL {distance:g}"


def compute(seed: int) -> Numbers:
    from claims.computed.enumerated import Enumerated
    from claims.computed.mismatch import colder, elsewhere, errors, likeliest

    policy = Enumerated(seed)
    samplers = {CUT: likeliest(policy, TOP_P), COLDER: colder(policy, TEMPERATURE)}
    samplers |= {other(distance): elsewhere(policy, seed, distance) for distance in DISTANCES}
    return {
        arm(name, sampler): its for sampler, theta in samplers.items() for name, its in errors(policy, theta).items()
    }


TINY = 1e-6  # what rounding leaves
CLAIM = Claim(
    sentence="Where the sampler is not the policy, weights of tokens mend a part of the gradient, and the weight of "
    "the whole completion mends all of it, at the price of variance.",
    paper=Paper("Qi et al.", 2025, "Defeating the Training-Inference Mismatch via FP16", "2510.26788"),
    setting="Exact sums over the 15 completions (1-3 tokens) of a random policy with random rewards; a seed is a "
    "policy, its rewards and a sampler. The sampler has other weights, as rounding and age make them, at a distance "
    f"KL(policy || sampler); or it keeps the likeliest tokens alone ({CUT}); or it is colder ({COLDER}). The reward "
    "less the sampler's mean reward is the advantage.",
    compute=compute,
    arms={
        **{arm(name, other(x)): Arm(what, line=name, x=x) for name, what in WHAT.items() for x in DISTANCES},
        **{arm(name, sampler): Arm(WHAT[name], line=name) for sampler in (CUT, COLDER) for name in BESIDE},
    },
    x="KL(policy || sampler) of completions, nats",
    log_x=True,
    measures=[
        Measure(
            "bias",
            "of the exact gradient's length",
            "distance of the expected gradient from that of the expected reward; 0 is exact, 1 is no better than no "
            "gradient",
        ),
        Measure(
            "error",
            "of the exact gradient's length",
            "root mean squared distance of the mean gradient of 64 completions from it: bias and variance together",
        ),
    ],
    expected=[
        *(Expect(arm(name, AT), "<", arm("none", AT)) for name in ("TIS", "MIS", "IcePop")),
        Expect(arm("TIS", COLDER), "<", arm("none", COLDER)),
        Expect(arm("TIS", CUT), "<", arm("none", CUT)),
        *(Expect(arm("product", where), "=", 0.0, within=TINY) for where in (AT, COLDER, CUT)),
        Expect(arm("product", other(1.0)), ">", arm("TIS of completions", other(1.0)), of="error"),
    ],
    beside=[
        Expect(arm("TIS of completions", AT), "<", arm("none", AT)),
        Expect(arm("TIS of completions", AT), "<", arm("TIS", AT)),
        Expect(arm("TIS", AT), "<", arm("none", AT), of="error"),
        Expect(arm("TIS of completions", AT), "<", arm("TIS", AT), of="error"),
    ],
    seeds=20,
    text="""
Weights of tokens take 30 % off the bias and leave the rest: what comes after a token is sampled as the sampler goes on,
and its weight knows nothing of that. The product of a completion's weights is exact, and at a distance of 1 nat it is
the worst of all for its variance; cut at 2 it is the best there and at 0.1 nats. At smaller distances the variance of
64 completions hides what any of them does. Leaving tokens out instead of cutting their weight (MIS) gains nothing that
is told from no correction: with a bound of 2 it also leaves out tokens that the policy likes and the sampler seldom
says. IcePop's bound of 5 leaves in most of them, and does as well as TIS.

No weight brings back what the sampler never says: with top-p the product has most of the bias of no correction, hence
"opposite". The claim is about samplers that say all that the policy says. Weights are at most 1 with top-p, so that MIS
and IcePop are TIS.

Completions are of 1 to 3 tokens: the variance of the product grows with the length, and with it the case for a cap.
[Stale batches](stale_batches.md) has runs with completions of 27 tokens. How far a bf16 sampler is from its trainer, a
run says in `sampler/logp_gap`; none was measured for this page.
""",
)
