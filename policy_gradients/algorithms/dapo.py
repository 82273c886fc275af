"""DAPO: decoupled clip and dynamic sampling policy optimization. Yu et al. (ByteDance), 2025, arXiv 2503.14476.

GRPO with four repairs for long reasoning.

    adv_i = (r_i - mean(r)) / (std(r) + 1e-4)                                      over the g completions of a prompt
    loss  = mean over all tokens of -min(ratio * adv, clamp(ratio, 1 - clip_low, 1 + clip_high) * adv)

    1. clip higher      clip_high 0.28 > clip_low 0.2: a rare token may rise by more, which keeps entropy up
    2. dynamic sampling groups all right or all wrong give no gradient and are replaced by new prompts
    3. token mean       every token of the step has the same weight, so a long completion counts in full
    4. overlong penalty from 0 to -1 over the last part of max_new_tokens, so that completions learn to end in time

Choices here. Dynamic sampling looks at exact success, not at partial credit or the penalty, and stops after
`resample_rounds` 4 in a batch (the paper has no limit): the rest is filled with groups that are all right or all wrong,
whose advantages are 0 unless other reward components differ. The penalty begins at 1 - overlong_buffer 0.2 of
max_new_tokens (the paper: 4,096 of 20,480). No KL.

What to know. The denominator of 3 is the tokens of the whole optimizer step, as in the authors' code (the paper writes
it for one prompt); a mean of micro-batch means would not be it. `reward/exact` is that of the groups that were kept.
Dynamic sampling costs rollouts: as the policy gets good, more and more groups are thrown away.
"""

from functools import partial

from policy_gradients.advantages import group_normalize
from policy_gradients.algorithm import Algorithm, Sampling
from policy_gradients.ratios import token_ratio
from policy_gradients.surrogates import clipped
from rlhf.aggregate import token_mean

dapo = Algorithm(
    advantage=group_normalize,
    ratio=token_ratio,
    surrogate=partial(clipped, clip_low=0.2, clip_high=0.28),
    aggregate=token_mean,
    needs=frozenset({"groups"}),
    sampling=Sampling(resample_rounds=4, truncated="penalize", overlong_buffer=0.2),
)
