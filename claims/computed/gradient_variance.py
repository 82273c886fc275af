"""How noisy the gradient is with each baseline, at equal samples."""

from claims.claim import Arm, Claim, Expect, Measure, Numbers, Paper

PROMPTS, GROUP = 8, 8  # of a batch
COMPLETIONS, BATCHES = 96, 2000  # of each prompt's population; drawn from it
SMALL_GROUP = 4  # every group of 4 of 15 completions is enumerated


def compute(seed: int) -> Numbers:
    from claims.computed.exact_noise import exact_noise
    from claims.computed.gradient_pool import embedded_pool, noise

    pool = embedded_pool(seed, prompts=PROMPTS, completions=COMPLETIONS)
    sampled = noise(pool, group_size=GROUP, batches=BATCHES, seed=seed)
    exact = exact_noise(seed, prompts=PROMPTS, group_size=SMALL_GROUP)
    return {name: {**sampled.get(name, {}), "noise, exact": exact[name]} for name in exact}


CLAIM = Claim(
    sentence="At equal samples, RLOO's gradient has less noise than REINFORCE's with a running mean.",
    paper=Paper(
        "Ahmadian et al.",
        2024,
        "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        "2402.14740",
    ),
    setting="Embedded model on spell_backward, 8 prompts x 8 completions; exact: 8 enumerated policies, groups of 4.",
    compute=compute,
    arms={
        "no baseline": Arm("the reward itself"),
        "running mean": Arm("minus the exponential mean of the rewards of earlier batches (REINFORCE)"),
        "ReMax": Arm("minus the reward of the greedy completion, which takes the place of one that is sampled"),
        "RLOO": Arm("minus the mean reward of the other completions of the prompt"),
        "GRPO": Arm("minus the mean of the group, by the standard deviation of the group"),
        "OPO": Arm("minus the mean of the group, weighed by length"),
        "prompt's mean": Arm("minus the prompt's true success rate: a perfect critic that reads the prompt alone"),
        "best constant": Arm("minus E[|s|² r] / E[|s|²], s the gradient of log pi: the best number for each prompt"),
        "perfect critic": Arm("of each token: minus the true success rate behind the tokens before it (PPO, lambda 1)"),
    },
    measures=[
        Measure(
            "noise",
            "variance / squared mean",
            "E|g − E g|² / |E g|² of the gradient g of a batch of 64 samples with respect to all weights of the "
            "embedded model, over 2,000 batches drawn from 96 completions of each prompt",
            ratio=True,
        ),
        Measure(
            "noise, exact",
            "variance / squared mean",
            "the same of policies of 15 completions, as a sum over all groups of 4: no sampling",
            ratio=True,
        ),
        Measure("baseline", "reward", "mean of what is subtracted from the rewards, which are 0 and 1", drawn=False),
        Measure(
            "direction",
            "cosine",
            "cosine between E g and the gradient of the mean reward over the whole population: 1 is unbiased",
        ),
    ],
    expected=[
        Expect("RLOO", "<", "running mean"),
        Expect("RLOO", "<", "running mean", of="noise, exact"),
    ],
    beside=[
        Expect("running mean", "<", "no baseline"),
        Expect("ReMax", "<", "no baseline"),
        Expect("RLOO", "<", "ReMax"),
        Expect("OPO", "<", "RLOO"),
        Expect("best constant", "<", "prompt's mean"),
        Expect("running mean", "<", "no baseline", of="noise, exact"),
        Expect("ReMax", "<", "no baseline", of="noise, exact"),
        Expect("RLOO", "<", "ReMax", of="noise, exact"),
        Expect("OPO", "<", "RLOO", of="noise, exact"),
        Expect("best constant", "<", "prompt's mean", of="noise, exact"),
        Expect("perfect critic", "<", "prompt's mean", of="noise, exact"),
        Expect("GRPO", "<", "RLOO", of="direction"),
    ],
    seeds=10,
    text="""
What the sentence says is opposite both times. It first said "a baseline of the prompt's own completions"; RLOO's is the
one that is compared.

What a baseline is worth depends on which completions have large gradients. The best number to subtract is not the mean
reward but E[|s|² r] / E[|s|²], the mean reward weighed by the squared gradient of log pi. On the enumerated policies,
of which about half of the completions are right, the two are close, and subtracting the mean halves the noise. A
problem of the embedded model has one right completion, which is also its likeliest: all of its samples have the same
small gradient, and the wrong ones have large ones, each another. So the best number is far below the success rate
(column "baseline"), and subtracting the mean is worse than subtracting nothing, which comes second to the best. (In
training, too, REINFORCE without a baseline does as well here as any algorithm: [results](../RESULTS.md).) To subtract
the mean is to bet that right and wrong completions have gradients of one size.

A group's own mean is made of few samples, and that costs more here, in groups of 8 as in groups of 4, than it gains
from prompts that differ in difficulty. Where rewards have a part that is the same for all completions of a prompt, it
gains much more: see the claim of [noisy rewards](noisy_rewards.md). ReMax subtracts 1 wherever the greedy completion is
right, which is nearly everywhere on the embedded model: the policy learns from its mistakes alone. On the enumerated
policies it subtracts 0 or 1, whichever the likeliest completion happens to earn.

The comparisons were written down before the first run, each as its paper has it: Williams (1992) for the running mean,
Li et al. (2023) for ReMax, Ahmadian et al. (2024) for RLOO, Hao et al. (2025) for OPO, Greensmith et al. (2004) for the
best number, Liu et al. (2025) for the direction of GRPO. "Perfect" arms know what an algorithm would have to learn. The
"best constant" with its two comparisons and the column "baseline" are later: they were added when the first seed had
shown another order than that of the papers, to find out why.
""",
)
