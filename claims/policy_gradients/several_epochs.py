"""Eight optimizer steps on each batch: what holds the policy near the one that sampled it."""

from claims.claim import Arm, Claim, Curve, Expect, Measure, Paper
from claims.measures import last, series
from claims.policy_gradients.short_words import SHORT_WORDS, SUCCESS, SUCCESS_CURVE

KL = Measure(
    "KL",
    "nats per token",
    "KL(policy || start) of the last batch, estimated by k3; arms are compared by their ratio",
    last("policy/kl"),
    ratio=True,
)

CLAIM = Claim(
    sentence="Over eight epochs on each batch, each of nine trust regions lets a policy learn more than none, and "
    "PPO's clip keeps it nearer to its start.",
    paper=Paper("Schulman et al.", 2017, "Proximal Policy Optimization Algorithms", "1707.06347"),
    setting="The embedded model spells words of 3 to 5 letters backward. 8 batches of 4 prompts with 8 completions "
    "each, 8 optimizer steps on each batch, advantages normalized within the group (TOPR's are 1 and -1), the mean "
    "over tokens. The KL is measured and hardly penalized (1e-6).",
    seeds=10,
    command="policy_gradients.train",
    shared={
        **SHORT_WORDS,
        "eval_problems": 20,
        "max_steps": 8,
        "epochs_per_batch": 8,
        "aggregation": "token_mean",
        "kl_coef": 1e-6,
        "kl_in": "loss",
    },
    arms={
        "no clip": Arm("ratio times advantage, as it is", {"algorithm": "m2po", "second_moment": 1e9}),
        "PPO's clip": Arm("a token whose ratio has left 0.8 to 1.2 gives no gradient", {"algorithm": "grpo"}),
        "dual clip": Arm("and a wrong completion's token weighs 3 at most", {"algorithm": "grpo", "dual_clip": 3.0}),
        "GSPO": Arm("the clip on the geometric mean of a completion", {"algorithm": "gspo"}),
        "CISPO": Arm("every token learns, with a weight of 5 at most", {"algorithm": "cispo"}),
        "SAPO": Arm("the gradient fades smoothly with the ratio", {"algorithm": "sapo"}),
        "DPPO": Arm("stops where a token's probability has moved by 0.2", {"algorithm": "dppo"}),
        "M2PO": Arm("leaves out the tokens that have moved most", {"algorithm": "m2po"}),
        "GMPO": Arm("clips each token's logarithm at 0.4, then takes their mean", {"algorithm": "gmpo"}),
        "VESPO": Arm("a completion's weight, reshaped so that none is large", {"algorithm": "vespo"}),
        "TOPR": Arm("right completions weigh 1, wrong ones their ratio, at most 1", {"algorithm": "topr"}),
    },
    measures=[SUCCESS, KL],
    expected=[
        Expect("PPO's clip", ">", "no clip"),
        Expect("GSPO", ">", "no clip"),
        Expect("CISPO", ">", "no clip"),
        Expect("SAPO", ">", "no clip"),
        Expect("DPPO", ">", "no clip"),
        Expect("M2PO", ">", "no clip"),
        Expect("GMPO", ">", "no clip"),
        Expect("VESPO", ">", "no clip"),
        Expect("TOPR", ">", "no clip"),
        Expect("PPO's clip", "<", "no clip", of="KL"),
    ],
    beside=[
        Expect("dual clip", ">", "PPO's clip"),
        Expect("SAPO", "<", "M2PO"),
        Expect("M2PO", "<", "PPO's clip"),
        Expect("PPO's clip", "<", "TOPR"),
    ],
    curves=[SUCCESS_CURVE, Curve("KL(policy || start), nats per token", series("policy/kl"), ratio=True)],
    text="""
Four algorithms stand apart, each of the six pairs by the interval of its paired difference: SAPO, M2PO, PPO's clip (as
GRPO has it) and TOPR, in this order. The same batches take one to 0.21 and another to 0.78. GMPO, DPPO, VESPO and the
dual clip are not told from PPO's clip; GSPO is ahead of it by 0.14 [0.01, 0.27], and not told from TOPR.

Eight steps on a batch at a learning rate of 3e-4 are more than this policy bears: without a clip it is right in 0.44 of
two batches on average at best, and then gets worse. With GSPO's clip every seed reaches 0.63 over training, though seed
3 falls from 0.98 to 0.12 at its end; with PPO's nine of ten learn (0.04 with seed 5). DPPO begins badly and ends at
0.69 on average, at 0.33 and 0.38 with two seeds. CISPO and SAPO do not: both go on learning from tokens whose ratio has
left the clip's range, CISPO with a weight of up to 5, and neither is told from the arm without a clip. Their KL to the
start is a hundredth of that arm's, and no more of their completions are right: a small KL does not say that a policy is
well. M2PO leaves out one token in seven and is not told from no clip either. TOPR weighs a right completion fully
however unlikely it has become, and a wrong one less the more it is avoided. All have their published values, and none
was tuned for this task.

Seeds 0 to 4 of the arms without GMPO, VESPO, TOPR and the dual clip were known when these four were added, after a run
of GMPO, VESPO and TOPR with seed 100. The comparisons of SAPO, M2PO, PPO's clip and TOPR were added with them, and all
arms' seeds 5 to 9 were run last. The sentence first said that without a trust region "the policy runs away from the
samples"; what is measured is the KL to the start, and compared for PPO's clip alone.
""",
)
