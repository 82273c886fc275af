"""A model that is loaded here, as a judge: by the probability of its verdict, or of the answers themselves."""

import math
from collections.abc import Sequence

import torch

from rlhf.data.answers import Answer, encode_answer
from rlhf.data.ranking_groups import shared_prompt
from rlhf.distributed import open_device
from rlhf.groups import Group
from rlhf.judges.config import Method
from rlhf.judges.judge import Pair, sigmoid
from rlhf.logprobs import Scorer, score
from rlhf.models.architecture import refuse_long, takes_shared_rows
from rlhf.models.frozen import store_in_bf16
from rlhf.models.policy import choose_precision, load
from rlhf.text.chat import Message, refuse_unknown_prompts

TOKEN_BUDGET = 8192

type Conversation = tuple[Sequence[Message], Sequence[Answer | str]]  # a prompt with answers to it

AGGREGATES = {"mean_logp": lambda logp: math.fsum(logp) / len(logp), "sum_logp": math.fsum, "min_logp": min}


class LocalModel:
    """A causal language model, asked how likely answers are."""

    usage = None

    def __init__(self, name: str, *, device: str = "auto"):
        self.device = open_device(device)
        self.model, self.tokenizer = load(name, key="judge")
        self.model.to(self.device).requires_grad_(False)
        self.in_bf16 = self.device.type == "cuda" and choose_precision("auto", self.device) == "bf16"
        if self.in_bf16:
            store_in_bf16(self.model)
        self.shared_prefix = takes_shared_rows(self.model)

    def logp(self, conversations: Sequence[Conversation]) -> list[list[list[float]]]:
        """The log-probabilities, in nats, of the tokens of each answer to each prompt; the end token's too, unless the
        answer was cut off.

        Raises:
            UserError: the model cannot read the texts: they are too long, or of letters that its tokenizer does not
                know.
        """
        groups = []
        for prompt, answers in conversations:
            groups.append(Group(*shared_prompt([encode_answer(self.tokenizer, prompt, it) for it in answers])))
        refuse_unknown_prompts(self.tokenizer, [list(group.prompt) for group in groups])
        longest = max((len(group.prompt) + max(map(len, group.completions)) for group in groups), default=0)
        refuse_long(
            self.model.config, longest, f"judge: a question with its answers takes {longest} tokens", "max_new_tokens"
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bf16):
            found = score(
                Scorer(self.model),
                groups,
                token_budget=TOKEN_BUDGET,
                device=self.device,
                shared_prefix=self.shared_prefix,
            )
        tokens = iter([logp[mask].tolist() for logp, mask in zip(found.logp.cpu(), found.mask.cpu(), strict=True)])
        return [[next(tokens) for _ in group.completions] for group in groups]

    def choose(self, questions: Sequence[str], choices: tuple[str, str]) -> list[float | None]:
        """P(first) / (P(first) + P(second)), of the model's next words being either choice."""
        answers = [Answer(choice, ended=False) for choice in choices]
        asked = [([{"role": "user", "content": question}], answers) for question in questions]
        return [sigmoid(math.fsum(first) - math.fsum(second)) for first, second in self.logp(asked)]


class LikelihoodJudge:
    """Holds the answer better that the model itself is more likely to give: by the mean log-probability of its tokens,
    their sum, or the least of them (the weakest step)."""

    sees_order = False
    usage = None

    def __init__(self, model: LocalModel, by: Method):
        self.model = model
        self.aggregate = AGGREGATES[by]

    def prefer_first(self, pairs: Sequence[Pair]) -> list[float | None]:
        logp = self.model.logp([(pair.prompt, [pair.first, pair.second]) for pair in pairs])
        return [sigmoid(self.aggregate(first) - self.aggregate(second)) for first, second in logp]
