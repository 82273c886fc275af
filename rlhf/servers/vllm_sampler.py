"""Samples from a policy in training by a vLLM server, which is sent the policy's weights before.

A server that goes away is waited for. It may come back with the weights that it was started with, so after every
failure they are sent again, and after every batch it is asked whether it has still those that were sent.

A batch can be begun and taken later, so that the server samples while this process trains. Only the calls for the
completions are made in another thread. What processes do together, and the policy's weights, stay in the main one.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic

import torch
from transformers import PreTrainedModel

from rlhf.config.vllm import VllmConfig
from rlhf.decoding import SampledCompletions
from rlhf.distributed import all_reduce_sum
from rlhf.errors import ServerGoneError
from rlhf.groups import Group
from rlhf.logprobs import Scorer, score
from rlhf.run.session import Session
from rlhf.servers.completions import Requests, as_sampled
from rlhf.servers.http import NoAnswerError, call_again, in_parallel
from rlhf.servers.vllm import ADAPTER, Served, VllmServer, refuse_raw_logprobs
from rlhf.servers.weights import Weights

MOST_CALLS = 256  # at the same time; the server queues them
LONGEST_WAIT_S = 5.0  # between two tries: a server that is back is not kept waiting
LARGEST_GAP = 0.3  # nats a token, mean over the first completions: more than rounding to 16 bits makes


@dataclass(frozen=True)
class Begun:
    """Completions that the server was asked for beforehand."""

    requests: Requests
    answers: Future[list[SampledCompletions]]


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
        self.begun: Begun | None = None
        self.thread = ThreadPoolExecutor(1)
        self.checked = False  # whether its log-probabilities were compared with the policy's
        self.gone_since: float | None = None
        self.said = False  # that it is gone

    def renew(self) -> None:
        """Write the policy's weights as they are now. The next completions are theirs, however often they are sent."""
        if self.accelerator.is_main_process:
            self.weights.write()
        self.sent = ""

    def begin(self, requests: Requests) -> None:
        """Have the server begin with what `sample` will be called for next; if it is gone, `sample` sees to that."""
        self.checked = True  # when the completions come, the policy has moved
        with suppress(NoAnswerError):
            served = self._ready(requests)
            self.begun = Begun(requests, self.thread.submit(self._ask, served, requests))

    def sample(self, requests: Requests) -> list[SampledCompletions]:
        """The completions of each prompt, see `rlhf.servers.completions.requests`.

        Raises:
            ServerGoneError: the server was waited for in vain.
            UserError: it cannot do what is asked for.
        """

        def attempt() -> list[SampledCompletions]:
            return self._together(partial(self._take, self._ready(requests), requests))

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
        if not self.checked:
            self._refuse_other_model(requests, sampled)
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

    def _ready(self, requests: Requests) -> Served:
        """The server, with the policy's weights."""
        if self.served is None:
            self.served = self._together(partial(self.server.served, lora=self.lora))
            for it in requests[:1]:
                temperature = it["temperature"] or 1.0
                refuse_raw_logprobs(self.served, temperature=temperature, top_k=it["top_k"], top_p=it["top_p"])
        if not self.sent:
            self._together(self._send)
            self.sent = self._together(self.server.weights_named)
        return self.served

    def _send(self) -> None:
        if self.accelerator.is_main_process:
            self.weights.send(self.server)

    def _take(self, served: Served, requests: Requests) -> list[SampledCompletions]:
        """The answers to what was begun, once they are here; to anything else, now."""
        begun, self.begun = self.begun, None
        if begun is not None and begun.requests == requests:
            return begun.answers.result()
        return self._ask(served, requests)

    def _ask(self, served: Served, requests: Requests) -> list[SampledCompletions]:
        for it in requests:
            needed = len(it["prompt"]) + it["max_tokens"]
            if needed > served.longest:
                raise self.server.connection.error(
                    f"reads {served.longest} tokens, and a prompt with max_new_tokens {it['max_tokens']} takes "
                    f"{needed}. --max-model-len raises it"
                )
        model = ADAPTER if self.lora else served.model
        answers = in_parallel(lambda it: self.server.complete({"model": model, **it}), requests, at_once=MOST_CALLS)
        if self.server.weights_named() != self.sent:
            raise NoAnswerError("it has other weights than it was sent: it was started anew, or serves another run")
        return [
            as_sampled(completions, it, self.server.connection.error)
            for completions, it in zip(answers, requests, strict=True)
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

    def _refuse_other_model(self, requests: Requests, sampled: Sequence[SampledCompletions]) -> None:
        """Compare the log-probabilities of the first prompt's completions with the policy's own.

        Raises:
            UserError: they are those of another model.
        """
        if not sampled or requests[0]["top_k"] or requests[0]["top_p"] < 1:
            return
        self.checked = True
        group = Group(requests[0]["prompt"], sampled[0].tokens)
        with self.accelerator.autocast():
            scores = score(
                Scorer(self.model),
                [group],
                temperature=requests[0]["temperature"] or 1.0,
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
