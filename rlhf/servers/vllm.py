"""A running `vllm serve`, as its HTTP interface has it: what it serves, new weights, completions of token ids.

Light: nothing here loads PyTorch. Written by the source of vLLM 0.32.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import UserError
from rlhf.servers.http import Connection, NoAnswerError, RefusedError

KEY_FROM = "VLLM_API_KEY"  # where vLLM itself looks for the key that it asks for
ADAPTER = "policy"  # the name under which the adapters of a run are served
WEIGHTS = ("/collective_rpc", "/reset_prefix_cache", "/server_info", "/weight_info", "/update_weight_version")
COMPLETIONS = "v1/completions"
ADAPTERS = "/v1/load_lora_adapter"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank takes


@dataclass(frozen=True)
class Served:
    """What a server says of itself."""

    model: str  # the name to ask for
    longest: int  # tokens of a prompt with its completion
    logprobs_mode: str
    lora_rank: int  # the largest of an adapter; 0: it takes none


@dataclass(frozen=True)
class Completion:
    """One completion, as it came."""

    tokens: list[int]
    logp: list[float]
    finish_reason: str


class VllmServer:
    """A server at an address, which may end in /v1 or not."""

    def __init__(self, url: str, *, timeout_s: float, hint: str = ""):
        self.connection = Connection(
            url.removesuffix("/v1"), setting="vllm_url", timeout_s=timeout_s, key_from=KEY_FROM, hint=hint
        )
        self.url = self.connection.url

    # ---------------------------------------------------------------- what it is

    def served(self, *, lora: bool = False) -> Served:
        """What is served there.

        Args:
            lora: whether adapters are to be sent.

        Raises:
            NoAnswerError: nothing answers.
            UserError: it is no vLLM server, or one that takes no new weights.
        """
        paths = self._json("openapi.json").get("paths", {})
        if f"/{COMPLETIONS}" not in paths:
            raise self.connection.error("is no vLLM server that completes prompts")
        if missing := [path for path in WEIGHTS if path not in paths]:
            raise self.connection.error(
                f"takes no new weights: {missing[0]} is not there. VLLM_SERVER_DEV_MODE=1 opens it, in vLLM 0.32"
            )
        if lora and ADAPTERS not in paths:
            raise self.connection.error(
                f"takes no adapters: {ADAPTERS} is not there. VLLM_ALLOW_RUNTIME_LORA_UPDATING=True opens it"
            )
        try:
            model = next(it for it in self._json("v1/models")["data"] if not it.get("parent"))
            config = self._json("server_info?config_format=json")["vllm_config"]
            return Served(
                model=str(model["id"]),
                longest=int(model["max_model_len"]),
                logprobs_mode=str(config["model_config"]["logprobs_mode"]),
                lora_rank=int((config["lora_config"] or {}).get("max_lora_rank", 0)),
            )
        except (LookupError, TypeError, StopIteration) as error:
            raise self.connection.error(f"describes itself in another way than vLLM 0.32 ({error!r})") from error

    def tokens(self, text: str) -> list[int]:
        """A text in the server's vocabulary, without tokens around it. Raises: NoAnswerError, UserError."""
        body = {"prompt": text, "add_special_tokens": False}
        return list(self._post("tokenize", body, "tokenizes nothing").json()["tokens"])

    # ---------------------------------------------------------------- new weights

    def load_weights(self, folder: Path) -> None:
        """Take the weights in a folder in place of those that it has. Raises: NoAnswerError, UserError."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        self._post("collective_rpc", body, f"cannot load the weights in {folder}")

    def load_adapter(self, folder: Path) -> None:
        """Take the LoRA adapter in a folder under the name ADAPTER. Raises: NoAnswerError, UserError."""
        body = {"lora_name": ADAPTER, "lora_path": str(folder), "load_inplace": True}
        self._post(ADAPTERS.lstrip("/"), body, f"cannot load the adapter in {folder}")

    def forget_prefixes(self) -> None:
        """Drop the keys and values of earlier weights. Raises: NoAnswerError, UserError."""
        if not self._post("reset_prefix_cache", None, "keeps its prefix cache").json()["success"]:
            raise NoAnswerError("its prefix cache is in use")

    def name_weights(self, version: str) -> None:
        """Give a name to the weights that it has, which it forgets when it is started anew."""
        self._post("update_weight_version", {"new_version": version}, "takes no name of its weights")

    def weights_named(self) -> str:
        """The name that it knows for its weights. Raises: NoAnswerError, UserError."""
        return str(self._json("weight_info")["weight_version"])

    # ---------------------------------------------------------------- completions

    def complete(self, body: dict[str, Any]) -> list[Completion]:
        """The completions of one prompt, in the order of their numbers. Raises: NoAnswerError, UserError."""
        answer = self._post(COMPLETIONS, body, "does not complete a prompt").json()
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        try:
            return [
                Completion(list(it["token_ids"]), list(it["logprobs"]["token_logprobs"]), str(it["finish_reason"]))
                for it in choices
            ]
        except (LookupError, TypeError) as error:
            raise self.connection.error("gives no token ids or no log-probabilities") from error

    # ---------------------------------------------------------------- calls

    def _json(self, path: str) -> dict[str, Any]:
        try:
            answer = self.connection.get(path).json()
        except RefusedError as error:
            raise self.connection.error(f"is no vLLM server, or asks for the key in {KEY_FROM} ({error})") from error
        except ValueError as error:
            raise self.connection.error("is no vLLM server: it answers something else than JSON") from error
        return answer if isinstance(answer, dict) else {}

    def _post(self, path: str, body: Any, failing: str):
        """The answer to a call; `failing` is what is wrong with a server that is well and does not answer it."""
        try:
            return self.connection.post(path, body)
        except RefusedError as error:
            if error.status == 404 and path == COMPLETIONS:  # started anew, it does not know the adapter
                raise NoAnswerError(str(error)) from error
            raise self.connection.error(f"{failing} ({error})") from error
        except NoAnswerError as error:
            if error.status == 500 and self._is_well():
                raise self.connection.error(f"{failing} ({error})") from error
            raise

    def _is_well(self) -> bool:
        try:
            return self.connection.get("health").is_success
        except (NoAnswerError, RefusedError):
            return False


def serve_command(model: str, *, lora_rank: int = 0, precision: str = "auto") -> str:
    """The command that starts a server for a run.

    >>> serve_command("Qwen/Qwen3-0.6B", precision="fp32")
    'VLLM_SERVER_DEV_MODE=1 vllm serve Qwen/Qwen3-0.6B --logprobs-mode processed_logprobs --dtype float32'
    """
    words = ["VLLM_SERVER_DEV_MODE=1"]
    words += ["VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"] if lora_rank else []
    words += ["vllm", "serve", model, "--logprobs-mode", "processed_logprobs"]
    words += ["--dtype", {"fp32": "float32", "bf16": "bfloat16"}[precision]] if precision != "auto" else []
    if lora_rank:
        words += ["--enable-lora", "--max-lora-rank", str(min(rank for rank in LORA_RANKS if rank >= lora_rank))]
    return " ".join(words)


def refuse_raw_logprobs(served: Served, *, temperature: float, top_p: float, top_k: int) -> None:
    """Check that the log-probabilities which the server gives are of the distribution that it samples from.

    Raw ones are those before the temperature and before the likeliest tokens are chosen; nothing in an answer says how
    to get from the one to the other, since the rest of the distribution is missing.

    Raises:
        UserError: they are not.
    """
    plain = temperature == 1 and top_p == 1 and top_k == 0
    if served.logprobs_mode == "processed_logprobs" or (served.logprobs_mode == "raw_logprobs" and plain):
        return
    raise UserError(
        f"vllm_url: the server gives {served.logprobs_mode}, which are not the log-probabilities that completions are "
        f"sampled with at temperature {temperature:g}, top_p {top_p:g} and top_k {top_k}",
        hint="Start it with --logprobs-mode processed_logprobs.",
    )
