"""Every `gpu:` block of a config trains: three steps on the CPU, with a tiny random model of its architecture.

The tokenizer has a token a byte, with the special tokens and the chat template of the block's model; the rows have the
columns of the block's data set. Blocks that several configs share run once. Replaced are, besides names of models and
data, device and precision, only the sizes in `SMALLER`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from byte_tokenizer import bytes_tokenizer
from commands import Caller
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import direct_alignment.train
import distillation.train
import instruction_tuning.train
import policy_gradients.train
import rejection_sampling.train
import reward_models.train_orm
import reward_models.train_preference_rm
import reward_models.train_prm
from rlhf.data.files import write_jsonl

trl = pytest.importorskip("trl")
ROOT = Path(__file__).parents[1]
QWEN3 = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
OLMO2_SFT = (  # as allenai/OLMo-2-0425-1B-SFT publishes it; the base model has none
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
# Sizes that would take a CPU too long, and the number of rows, of which the files here have 40.
SMALLER: dict[str, dict[str, Any]] = {
    "policy_gradients": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6, "eval_problems": 2},
    "direct_alignment": {"batch_size": 4, "max_new_tokens": 4, "data.held_out": 4, "eval_samples": 2},
    "reward_models": {"batch_size": 4, "data.held_out": 4, "data.validation": 4},
    "rejection_sampling": {
        "prompts_per_round": 4,
        "group_size": 4,
        "batch_size": 4,
        "steps_per_round": 2,
        "max_new_tokens": 64,  # enough for some to end
        "eval_problems": 2,
    },
    "distillation": {
        "prompts_per_step": 2,
        "group_size": 2,
        "max_new_tokens": 6,
        "eval_problems": 2,
        "texts.problems": 4,
    },
    "instruction_tuning": {"batch_size": 4, "data.held_out": 4, "eval_max_new_tokens": 4},
}
SAMPLED = {"data.problems": 30, "data.max_new_tokens": 6}  # where a reward model's data are sampled

type Block = tuple[str, str, dict[str, Any]]  # family, config, the block


def distinct_blocks() -> list[Block]:
    """One config for each block that differs from all others of its family."""
    found: dict[tuple[str, str], Block] = {}
    for file in sorted(ROOT.glob("*/configs/*.yaml"), key=lambda it: (it.stem not in ("dpo", "grpo"), it)):
        if block := yaml.safe_load(file.read_text()).get("gpu"):
            family = file.parents[1].name
            found.setdefault((family, json.dumps(block, sort_keys=True)), (family, file.stem, block))
    return list(found.values())


BLOCKS = distinct_blocks()
COMMANDS: dict[str, Callable[[], int | None]] = {
    "policy_gradients": policy_gradients.train.main,
    "direct_alignment": direct_alignment.train.main,
    "distillation": distillation.train.main,
    "instruction_tuning": instruction_tuning.train.main,
    "rejection_sampling": rejection_sampling.train.main,
    "preference_rm": reward_models.train_preference_rm.main,
    "orm": reward_models.train_orm.main,
    "prm": reward_models.train_prm.main,
}


# ------------------------------------------------------------------------------------------- models and data, made here


def save_model(folder: Path, kind: Any, config: Any, tokenizer: PreTrainedTokenizerFast, ends: list[int]) -> str:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends[0], "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = kind(config(vocab_size=len(tokenizer), num_key_value_heads=1, max_position_embeddings=4096, **sizes, **ids))
    model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder in place of each model that a block names."""
    folder = tmp_path_factory.mktemp("models")
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    qwen = bytes_tokenizer(QWEN3, marks, added=("<think>", "</think>"))
    ends = [qwen.convert_tokens_to_ids(mark) for mark in ("<|im_end|>", "<|endoftext|>")]
    base = save_model(folder / "qwen3-base", Qwen3ForCausalLM, Qwen3Config, qwen, ends[1:])
    qwen.eos_token = "<|im_end|>"
    chat = save_model(folder / "qwen3", Qwen3ForCausalLM, Qwen3Config, qwen, ends)
    olmo = bytes_tokenizer(OLMO2_SFT, ["<|endoftext|>", "<|pad|>"], bos_token="<|endoftext|>", pad_token="<|pad|>")
    end = [olmo.eos_token_id]
    sft = save_model(folder / "olmo2-sft", Olmo2ForCausalLM, Olmo2Config, olmo, end)
    olmo.chat_template = None
    return {
        "Qwen/Qwen3-4B": chat,
        "Qwen/Qwen3-1.7B": chat,
        "Qwen/Qwen3-0.6B": chat,
        "Qwen/Qwen3-0.6B-Base": base,
        "allenai/OLMo-2-0425-1B-SFT": sft,
        "allenai/OLMo-2-0425-1B": save_model(folder / "olmo2", Olmo2ForCausalLM, Olmo2Config, olmo, end),
    }


def ultrafeedback(i: int) -> dict[str, Any]:
    """A row of argilla/ultrafeedback-binarized-preferences-cleaned."""
    sides = {
        side: [{"content": f"Question {i}?", "role": "user"}, {"content": f"{side} answer {i}.", "role": "assistant"}]
        for side in ("chosen", "rejected")
    }
    ratings = {"chosen-rating": 5.0, "rejected-rating": 2.0, "chosen-model": "a", "rejected-model": "b"}
    return {"source": "evol_instruct", "prompt": f"Question {i}?", **sides, **ratings}


def prm800k(i: int) -> dict[str, Any]:
    """A row of tasksource/PRM800K."""

    def step(*ratings: int) -> dict[str, Any]:
        completions = [{"text": f"Step {i} rated {it}.", "rating": it, "flagged": False} for it in ratings]
        return {"completions": completions, "human_completion": None, "chosen_completion": 0}

    label = {"steps": [step(1, -1), step(0), step(-1)], "total_time": 1000, "finish_reason": "found_error"}
    question = {"problem": f"What is {i} + 1?", "ground_truth_answer": str(i + 1), "pre_generated_steps": None}
    about = {"labeler": "x", "timestamp": "2023-01-22", "generation": 9, "is_quality_control_question": False}
    return {**about, "is_initial_screening_question": False, "question": question, "label": label}


def no_robots(i: int) -> dict[str, Any]:
    """A row of HuggingFaceH4/no_robots: some have a system message, some several turns."""
    system = [{"role": "system", "content": "Marv is a chatbot that answers with sarcasm."}] if i % 3 == 0 else []
    turns = 1 + i % 2
    talk = [{"role": role, "content": f"{role} {i} {t}"} for t in range(turns) for role in ("user", "assistant")]
    return {"prompt": f"user {i} 0", "prompt_id": f"{i:064}", "messages": [*system, *talk], "category": "Chat"}


def gsm8k(i: int) -> dict[str, Any]:
    """A row of openai/gsm8k."""
    return {"question": f"Tim has {i} apples and gets 2. How many are there?", "answer": f"<<{i}+2>>\n#### {i % 10}"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file in place of each data set that a block names."""
    folder, files = tmp_path_factory.mktemp("data"), {}
    rows = {
        "argilla/ultrafeedback-binarized-preferences-cleaned": ultrafeedback,
        "tasksource/PRM800K": prm800k,
        "HuggingFaceH4/no_robots": no_robots,
        "openai/gsm8k:main": gsm8k,
    }
    for name, row in rows.items():
        file = folder / f"{row.__name__}.jsonl"
        write_jsonl(file, [row(i) for i in range(40)])
        files[name] = str(file)
    return files


# ------------------------------------------------------------------------------------------------------------ the runs


def put_here(value: Any, here: dict[str, str]) -> Any:
    """A block with the names of models and data sets that are here."""
    if isinstance(value, dict):
        return {key: put_here(inner, here) for key, inner in value.items()}
    return here.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(("family", "name", "block"), BLOCKS, ids=[f"{family}-{name}" for family, name, _ in BLOCKS])
def test_three_steps(
    family: str, name: str, block: dict[str, Any], models, data, tmp_path: Path, monkeypatch, capfd
) -> None:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    content = yaml.safe_load((ROOT / family / "configs" / f"{name}.yaml").read_text())
    content["gpu"] = put_here(block, models | data)
    config = tmp_path / f"{name}.yaml"
    config.write_text(yaml.safe_dump(content))
    sizes = SMALLER[family] | (SAMPLED if block.get("data", {}).get("path") == "samples" else {})
    sizes |= {"critic.warmup_batches": 1} if "critic" in block else {}  # of three steps
    arguments = [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
    outcome = Caller(monkeypatch, capfd)._call(
        COMMANDS[name if family == "reward_models" else family],
        (
            *("--config", config, "--profile", "gpu", "--device", "cpu", "--max_steps", "3"),
            *("--precision", "bf16" if block.get("low_memory") else "fp32"),
            *("--output_dir", tmp_path / "run", "--quiet", *arguments),
        ),
    )
    assert outcome.code == 0, outcome.err + outcome.out
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in logged] == [1, 2, 3]
    final = AutoTokenizer.from_pretrained(tmp_path / "run" / "final")
    # Behind values of the template's variables, where the block gives some.
    assert final.chat_template.endswith(OLMO2_SFT if "OLMo" in block["model_name"] else QWEN3)
