"""A server that behaves as vLLM 0.32 does, with a tiny model in this process.

It has the weights that it was sent; started anew, it has those that it was first started with. Keys and values of
earlier weights are used until they are forgotten: here the earlier weights themselves.
"""

import threading
from pathlib import Path
from typing import Any

import torch
from json_server import JsonServer
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.sampling import sample
from rlhf.servers.vllm import ADAPTERS, WEIGHTS

EVERY_PATH = ("/v1/completions", "/tokenize", *WEIGHTS, ADAPTERS)


class FakeVllm(JsonServer):
    """Serves the model in a folder.

    Attributes:
        calls: the paths that were posted to, and what each was sent.
        failures: statuses with which the next completions are answered.
    """

    def __init__(
        self, folder: Path, *, port: int = 0, paths=EVERY_PATH, mode: str = "processed_logprobs", rank: int = 0
    ):
        super().__init__(port)
        self.folder, self.paths, self.mode, self.rank = folder, paths, mode, rank
        self.longest = 128
        self.calls: list[tuple[str, Any]] = []
        self.failures: list[int] = []
        self.lock = threading.Lock()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.start()

    def start(self) -> None:
        self.sent = load_file(self.folder / "model.safetensors")
        self.post_reset_prefix_cache(None)
        self.version = "default"
        self.adapter = False

    def count(self, path: str) -> int:
        return sum(called == path for called, _ in self.calls)

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/health":
            return 200, ""
        if path == "/openapi.json":
            return 200, {"paths": {path: {} for path in self.paths}}
        if path == "/v1/models":
            adapter = [{"id": "policy", "parent": "tiny"}] if self.adapter else []
            return 200, {"data": [*adapter, {"id": "tiny", "max_model_len": self.longest, "parent": None}]}
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        lora = {"max_lora_rank": self.rank} if self.rank else None
        return 200, {"vllm_config": {"model_config": {"logprobs_mode": self.mode}, "lora_config": lora}}

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        with self.lock:
            self.calls.append((path, body))
            return getattr(self, f"post_{path.rpartition('/')[2]}")(body)

    def post_tokenize(self, body: dict[str, Any]) -> tuple[int, Any]:
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        return 200, {"tokens": tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])}

    def post_collective_rpc(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert body["method"] == "reload_weights"
        self.sent = load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors")
        return 200, {"results": [None]}

    def post_load_lora_adapter(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.adapter and not body["load_inplace"]:
            return 400, {"error": {"message": "has already been loaded"}}
        base = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        self.sent = PeftModel.from_pretrained(base, body["lora_path"]).merge_and_unload().state_dict()
        self.adapter = True
        return 200, "Success"

    def post_reset_prefix_cache(self, _: None) -> tuple[int, Any]:
        self.model.load_state_dict(self.sent, strict=False)  # tied weights are there once
        return 200, {"success": True}

    def post_update_weight_version(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.version = body["new_version"]
        return 200, {"success": True}

    def post_completions(self, body: dict[str, Any]) -> tuple[int, Any]:
        """The last completion stands first: their numbers tell them apart."""
        if self.failures:
            return self.failures.pop(0), "broken"
        if body["model"] == "policy" and not self.adapter:
            return 404, {"error": {"message": "The model `policy` does not exist."}}
        assert body["ignore_eos"]
        assert body["return_token_ids"]
        choices = [self.choice(body, index) for index in reversed(range(body["n"]))]
        return 200, {"choices": choices}

    def choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        (one,) = sample(
            self.model,
            [body["prompt"]],
            completions=1,
            max_new_tokens=body["max_tokens"],
            end_tokens=body["stop_token_ids"],
            keys=[(body["seed"] + index,)],
            temperature=body["temperature"],
            top_k=body["top_k"],
            top_p=body["top_p"],
        )
        ended = one.tokens[0][-1] in body["stop_token_ids"]
        return {
            "index": index,
            "token_ids": one.tokens[0],
            "logprobs": {"token_logprobs": one.logp[0]},
            "finish_reason": "stop" if ended else "length",
        }
