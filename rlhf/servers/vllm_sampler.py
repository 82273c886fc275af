"""Samples from a policy in training by a vLLM server, which is sent the policy's weights before.

A server that goes away is waited for. It may come back with the weights that it was started with, so after every
failure they are sent again, and after every batch it is asked whether it has still those that were sent.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from rlhf.config.vllm import VllmConfig
from rlhf.decoding import SampledCompletions
from rlhf.distributed import all_reduce_sum
from rlhf.errors import ServerGoneError, UserError
from rlhf.groups import Group
from rlhf.logprobs import Scorer, score
from rlhf.run.session import Session
from rlhf.servers.http import NoAnswerError, call_again, in_parallel
from rlhf.servers.vllm import ADAPTER, Completion, Served, VllmServer, refuse_raw_logprobs
from rlhf.servers.weights import Weights

MOST_CALLS = 256  # at the same time; the server queues them
LONGEST_WAIT_S = 5.0  # between two tries: a server that is back is not kept waiting
LARGEST_GAP = 0.3  # nats a token, mean over the first completions: more than rounding to 16 bits makes

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


class VllmSampler:
    """Completions of the policy as it was at the time of `renew`."""

    def __init__(self, session: Session, model: PreTrainedModel):
        config = session.config
        assert isinstance(config, VllmConfig)
        assert config.vllm_url is not None, "the config says so"
        self.session = session
        self.accelerator = session.accelerator
        self.model = model
        self.lora = bool(config.lora_rank)
        self.weights = Weights(session, model, folder=config.vllm_folder, lora=self.lora)
        self.patience_s = config.vllm_patience_s
        self.server = VllmServer(config.vllm_url, timeout_s=config.vllm_patience_s)
        self.served: Served | None = None  # None: the server is to be asked
        self.sent = ""  # the name of the policy's weights, as the server knows it; "": it is to be sent them
        self.checked = False  # whether its log-probabilities were compared with the policy's
        self.gone_since: float | None = None
        self.said = False  # that it is gone

    def renew(self) -> None:
        """The policy may have moved: its weights are sent before the next completions."""
        self.sent = ""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        completions: int,
        max_new_tokens: int,
        end_tokens: Sequence[int],
        keys: Sequence[Sequence[int]],
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> list[SampledCompletions]:
        """`completions` continuations of each prompt, as `rlhf.sampling.sample`.

        Equal keys give equal seeds, and vLLM's random numbers follow from the seed. Its logits depend in their last
        bits on what is decoded at the same time, so that now and then another token comes out than in another run.

        Raises:
            ServerGoneError: the server was waited for in vain.
            UserError: it cannot do what is asked for.
        """
        how = ASKED | {
            "n": completions,
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "stop_token_ids": list(end_tokens),
        }
        bodies = [
            {"prompt": list(prompt), "seed": seed_of(key), **how} for prompt, key in zip(prompts, keys, strict=True)
        ]

        def attempt() -> list[SampledCompletions]:
            if self.served is None:
                self.served = self._together(partial(self.server.served, lora=self.lora))
                refuse_raw_logprobs(self.served, temperature=temperature or 1.0, top_k=top_k, top_p=top_p)
            if not self.sent:
                self._together(self._send)
                self.sent = self._together(self.server.weights_named)
            return self._together(partial(self._ask, self.served, bodies))

        try:
            sampled = call_again(
                attempt,
                enough=self._is_enough,
                on_failure=self._wait_for_it,
                longest_wait_s=LONGEST_WAIT_S,
            )
        except NoAnswerError as error:
            raise ServerGoneError(
                f"vllm_url: {self.server.url} has not answered for {self.patience_s / 60:.3g} minutes ({error})",
                hint="Start it again and continue the run with --resume. vllm_patience_s says how long a run waits.",
            ) from error
        self._say_that_it_is_back()
        if not self.checked and top_p == 1 and not top_k:
            self._refuse_other_model(prompts, sampled, temperature or 1.0)
        return sampled

    # ---------------------------------------------------------------- a try

    def _together[T](self, call: Callable[[], T]) -> T:
        """What a call returns that all processes make at the same time.

        Raises:
            NoAnswerError: in all of them, if one of them has no answer.
        """
        result: list[T] = []
        failure = None
        try:
            result.append(call())
        except NoAnswerError as error:
            failure = error
        (failures,) = all_reduce_sum([float(failure is not None)], self.accelerator)
        if failures:
            raise failure or NoAnswerError("another process of this run has no answer")
        return result[0]

    def _send(self) -> None:
        if self.accelerator.is_main_process:
            self.weights.send(self.server)

    def _ask(self, served: Served, bodies: Sequence[dict[str, Any]]) -> list[SampledCompletions]:
        for body in bodies:
            needed = len(body["prompt"]) + body["max_tokens"]
            if needed > served.longest:
                raise self.server.connection.error(
                    f"reads {served.longest} tokens, and a prompt with max_new_tokens {body['max_tokens']} takes "
                    f"{needed}. --max-model-len raises it"
                )
        model = ADAPTER if self.lora else served.model
        answers = in_parallel(lambda body: self.server.complete({"model": model, **body}), bodies, at_once=MOST_CALLS)
        if self.server.weights_named() != self.sent:
            raise NoAnswerError("it has other weights than it was sent: it was started anew, or serves another run")
        return [
            as_sampled(completions, body, self.server.connection.error)
            for completions, body in zip(answers, bodies, strict=True)
        ]

    # ---------------------------------------------------------------- a server that is gone

    def _is_enough(self, failures: int) -> bool:
        """Whether it was waited for long enough, by the clock of any process."""
        now = monotonic()
        if failures == 1:
            self.gone_since = now
        late = self.gone_since is not None and now - self.gone_since >= self.patience_s
        return all_reduce_sum([float(late)], self.accelerator)[0] > 0

    def _wait_for_it(self, error: NoAnswerError) -> None:
        if not self.said:
            self.said = True
            self.session.console.say(
                f"vLLM at {self.server.url} does not answer ({error}): waiting for up to {self.patience_s / 60:.3g} "
                "minutes, then the run is saved"
            )
        self.served, self.sent = None, ""  # it may come back as another one, with the weights that it starts with
        self.session.interrupted.stop_if_heard(self.accelerator)

    def _say_that_it_is_back(self) -> None:
        if self.said and self.gone_since is not None:
            seconds = monotonic() - self.gone_since
            self.session.console.say(f"vLLM is back after {seconds:.0f} s, with the policy's weights")
        self.said, self.gone_since = False, None

    # ---------------------------------------------------------------- the first completions

    def _refuse_other_model(
        self, prompts: Sequence[Sequence[int]], sampled: Sequence[SampledCompletions], temperature: float
    ) -> None:
        """Compare the log-probabilities of the first prompt's completions with the policy's own.

        Raises:
            UserError: they are those of another model.
        """
        self.checked = True
        if not sampled:
            return
        group = Group(list(prompts[0]), sampled[0].tokens)
        with self.accelerator.autocast():
            scores = score(
                Scorer(self.model),
                [group],
                temperature=temperature,
                device=self.accelerator.device,
                **self.session.layout,
            )
        its = torch.tensor([logp for row in sampled[0].logp for logp in row], device=scores.logp.device)
        gap = float((scores.logp[scores.mask] - its).abs().mean())
        if gap > LARGEST_GAP:
            raise self.server.connection.error(
                f"says log-probabilities that are {gap:.2f} nats a token away from those of the policy whose weights "
                "it was sent: it serves another model, or in another precision (--dtype, --quantization)"
            )


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
