"""How far a policy is from another: KL(policy || start) of completions, over the whole vocabulary.

Of a completion that pi sampled it is the sum over its tokens of KL(pi(. | prefix) || pi_start(. | prefix)). Its mean
over completions of pi is KL(pi || start) of whole completions, by the chain rule, and varies less than the mean of
log pi - log pi_start, whose Rao-Blackwell estimator it is: Amini et al., 2025, "Better Estimation of the KL Divergence
Between Language Models", arXiv 2504.10637.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.groups import Group, Rows, micro_batches
from rlhf.logprobs import hidden_states
from rlhf.tensors import in_fp32, masked_sum

TOKEN_BUDGET = 8192  # of the rows in which completions are scored


@torch.no_grad()
def exact_kl(policy: PreTrainedModel, start: PreTrainedModel, groups: Sequence[Group]) -> Float[Tensor, " n"]:
    """For each completion the sum over its tokens of KL(pi || pi_start) of the next token, in nats."""
    kl = torch.zeros(sum(len(group.completions) for group in groups))
    for rows in micro_batches(groups, token_budget=TOKEN_BUDGET, shared_prefix=False):
        log_pi, log_start = (_next_token_logp(model, rows) for model in (policy, start))
        of_token = torch.zeros(rows.mask.shape)
        of_token[rows.mask] = torch.linalg.vecdot(log_pi.exp(), log_pi - log_start)
        kl[rows.index] = masked_sum(of_token, rows.mask)
    return kl


def _next_token_logp(model: PreTrainedModel, rows: Rows) -> Float[Tensor, "m v"]:
    """The log-probabilities of the whole vocabulary where the m tokens of the completions were sampled, on the CPU."""
    head = model.get_output_embeddings().weight
    rows = rows.to(head.device)
    states = hidden_states(model, rows).flatten(0, 1)[rows.logit_index[rows.mask]]
    return in_fp32(states.float(), head.T).log_softmax(-1).cpu()
