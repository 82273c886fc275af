"""What benchmarks/gpu.py trains: models with random weights of real sizes, and rows in the schemas of the real sets.

Nothing is downloaded. The tokenizer is the embedded model's, which has a token for each letter: its ids are among the
first of the vocabulary, whose size is the real one.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}
SMALL = ["--max_new_tokens", "16", "--prompts_per_step", "2", "--group_size", "4"]
SMALLER = {  # for --tiny
    "policy_gradients.train": SMALL,
    "distillation.train": SMALL,
    "rejection_sampling.train": ["--max_new_tokens", "64", "--prompts_per_round", "8", "--batch_size", "4"],
}
ONE_PROBLEM = ["--eval_problems", "1"]
UNEVALUATED = {  # so that a plan says nothing of evaluations that are not made
    **dict.fromkeys(("policy_gradients.train", "distillation.train", "rejection_sampling.train"), ONE_PROBLEM),
    "direct_alignment.train": ["--eval_samples", "0"],
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Block:
    """The `gpu:` block of a config, as it is run here."""

    name: str
    module: str
    config: str
    model: str  # a key of KNOWN_SIZES
    arguments: tuple[str, ...] = ()
    data: str = ""  # the file that stands for its data set
    teacher: str = ""  # a key of KNOWN_SIZES
    ends: bool = False  # whether the model's completions end before max_new_tokens


BLOCKS = (
    Block("GRPO", "policy_gradients.train", "policy_gradients/configs/grpo.yaml", "Qwen/Qwen3-1.7B"),
    Block(
        "PPO",
        "policy_gradients.train",
        "policy_gradients/configs/ppo.yaml",
        "Qwen/Qwen3-1.7B",
        arguments=("--critic.warmup_batches", "0"),  # the policy learns in each of the few steps
    ),
    Block(
        "preference RM",
        "reward_models.train_preference_rm",
        "reward_models/configs/preference_rm.yaml",
        "Qwen/Qwen3-0.6B",
        data="pairs.jsonl",
    ),
    Block(
        "ORM", "reward_models.train_orm", "reward_models/configs/orm.yaml", "Qwen/Qwen3-0.6B", data="solutions.jsonl"
    ),
    Block(
        "preference RM 1.7B",
        "reward_models.train_preference_rm",
        "reward_models/configs/preference_rm.yaml",
        "Qwen/Qwen3-1.7B",
        data="pairs.jsonl",
    ),
    Block(
        "GRPO, all weights",
        "policy_gradients.train",
        "policy_gradients/configs/grpo.yaml",
        "Qwen/Qwen3-1.7B",
        arguments=("--lora_rank", "0", "--low_memory", "true"),
    ),
    Block(
        "GRPO with a reference, all weights",
        "policy_gradients.train",
        "policy_gradients/configs/grpo.yaml",
        "Qwen/Qwen3-1.7B",
        arguments=("--lora_rank", "0", "--low_memory", "true", "--kl_coef", "0.04"),
    ),
    Block(
        "GRPO with an offloaded reference, all weights",
        "policy_gradients.train",
        "policy_gradients/configs/grpo.yaml",
        "Qwen/Qwen3-1.7B",
        arguments=("--lora_rank", "0", "--low_memory", "true", "--kl_coef", "0.04", "--offload_reference", "true"),
    ),
    Block(
        "distillation",
        "distillation.train",
        "distillation/configs/on_policy.yaml",
        "Qwen/Qwen3-0.6B",
        arguments=("--chat_template_kwargs", "{}"),
        teacher="Qwen/Qwen3-4B",
    ),
    Block(
        "rejection sampling",
        "rejection_sampling.train",
        "rejection_sampling/configs/top_per_prompt.yaml",
        "Qwen/Qwen3-0.6B",
        arguments=(
            *("--chat_template_kwargs", "{}", "--task", "spell_backward", "--task_config", "{}"),
            *("--answer_in", "answer_tag", "--prompts_per_round", "128"),
        ),
        ends=True,  # only those are selected
    ),
    Block("PRM", "reward_models.train_prm", "reward_models/configs/prm.yaml", "Qwen/Qwen3-0.6B", data="steps.jsonl"),
    Block(
        "DPO",
        "direct_alignment.train",
        "direct_alignment/configs/dpo.yaml",
        "allenai/OLMo-2-0425-1B",
        data="pairs.jsonl",
    ),
    Block(
        "SFT",
        "instruction_tuning.train",
        "instruction_tuning/configs/sft.yaml",
        "allenai/OLMo-2-0425-1B",
        arguments=("--chat_template", "null"),  # the tokenizer here has one
        data="conversations.jsonl",
    ),
)


def make_model(folder: Path, size: dict[str, Any], *, device: str, ends: bool = False, seed: int = 0) -> Path:
    """Save a causal language model with random weights, in bf16 as models come, with a tokenizer.

    Args:
        ends: one token in about fifty is the end; otherwise one in the size of the vocabulary, so completions are as
            long as they may be.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlhf.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer("embedded")
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(**size, **special)
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if ends:
        _let_end(model, tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _let_end(model: "PreTrainedModel", end: int) -> None:
    """Give the end token a probability of a few percent: what all states have in common is the first number of the
    embeddings, 4 where the others are random and small, and the end token's output weights have more of it."""
    import torch

    with torch.no_grad():
        for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
            first = embeddings.get_parameter("weight")[:, 0]
            first[:] = 4.0
            first[end] = 7.0


def write_rows(folder: Path, *, letters: int, count: int = 400, seed: int = 0) -> None:
    """A file for each data set, with answers of half to all of `letters` letters, a token each."""
    rng = random.Random(seed)

    def text(most: int = letters) -> str:
        length = rng.randint(most // 2, most)
        return "".join(rng.choice(LETTERS + "   ") for _ in range(length)).strip() or "a"

    def turns(asked: str, said: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]

    pairs, solutions, steps, conversations = [], [], [], []
    for number in range(count):
        asked = f"{text(letters // 8)} {number}"
        pairs.append({"prompt": asked, "chosen": turns(asked, text()), "rejected": turns(asked, text())})
        labels = [True, False, True, False]
        solutions.append({"question": asked, "completions": [text(letters // 2) for _ in labels], "labels": labels})
        lines = [text(letters // 8) for _ in range(8)]
        steps.append({"prompt": asked, "completions": lines, "labels": [rng.random() < 0.7 for _ in lines]})
        conversations.append({"messages": turns(asked, text())})
    named = {"pairs": pairs, "solutions": solutions, "steps": steps, "conversations": conversations}
    for name, rows in named.items():
        _write(folder / f"{name}.jsonl", rows)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
