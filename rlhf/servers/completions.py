"""What a vLLM server is asked for when completions are sampled, and its answers, checked."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf.decoding import SampledCompletions
from rlhf.errors import UserError
from rlhf.servers.http import NoAnswerError
from rlhf.servers.vllm import Completion

ASKED = {
    # Otherwise a server takes these from the model's generation_config.json.
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,  # the end tokens are ours: stop_token_ids
    "logprobs": 0,  # of the sampled tokens alone
    "return_token_ids": True,
}

type Requests = list[dict[str, Any]]  # bodies of calls, one for each prompt


def requests(
    prompts: Sequence[Sequence[int]],
    *,
    completions: int,
    max_new_tokens: int,
    end_tokens: Sequence[int],
    keys: Sequence[Sequence[int]],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Requests:
    """What to ask for `completions` continuations of each prompt; the arguments are those of `rlhf.sampling.sample`.

    Equal keys give equal seeds, and vLLM's random numbers follow from the seed. Its logits depend in their last bits on
    what is decoded at the same time, so that now and then another token comes out than in another run.
    """
    how = ASKED | {
        "n": completions,
        "max_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "stop_token_ids": list(end_tokens),
    }
    return [{"prompt": list(prompt), "seed": seed_of(key), **how} for prompt, key in zip(prompts, keys, strict=True)]


def seed_of(key: Sequence[int]) -> int:
    """The seed of a prompt's completions; vLLM adds the number of each completion."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(2))


def as_sampled(
    answer: Sequence[Completion], asked: Mapping[str, Any], error: Callable[[str], UserError]
) -> SampledCompletions:
    """The completions of a prompt, checked.

    Args:
        asked: what the server was asked for.
        error: from what is wrong with the server to an error.

    Raises:
        NoAnswerError: a completion was ended by something else than its length or an end token.
        UserError: the server does not keep to what it was asked for.
    """
    ends = set(asked["stop_token_ids"])
    if len(answer) != asked["n"]:
        raise error(f"gives {len(answer)} completions of a prompt, wanted {asked['n']}")
    for it in answer:
        if it.finish_reason not in ("stop", "length"):
            raise NoAnswerError(f"a completion ended with {it.finish_reason!r}")
        if not it.tokens or len(it.tokens) != len(it.logp) or None in it.logp:
            raise error(f"gives {len(it.logp)} log-probabilities of {len(it.tokens)} tokens")
        if it.finish_reason == "stop" and it.tokens[-1] not in ends:
            raise error(f"stopped at token {it.tokens[-1]}, which ends no completion of this run, or drops end tokens")
        if it.finish_reason == "length" and len(it.tokens) < asked["max_tokens"]:
            raise error(f"cuts at {len(it.tokens)} tokens, wanted {asked['max_tokens']}: --generation-config vllm")
        if ends & set(it.tokens[:-1]):
            raise error(f"goes on behind the end tokens {sorted(ends)}")
    return SampledCompletions(
        tokens=[it.tokens for it in answer],
        logp=[it.logp for it in answer],
        truncated=[it.tokens[-1] not in ends for it in answer],
    )
