"""The model card of a finished run: final/README.md, with the front matter that the Hugging Face Hub reads.

Everything in it is read from the run directory, so that it says what was run. The license is for the user to choose.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf.config.paths import home
from rlhf.config.recorded import read_config, read_provenance
from rlhf.models.heads import SEQUENCE, TOKEN
from rlhf.models.loading import SMOLLM2
from rlhf.run.tracking import read_records
from rlhf.statistics import in_brackets

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PUBLISHED_AS = {SMOLLM2: "HuggingFaceTB/SmolLM2-135M-Instruct"}  # of models that have a short name here
PIPELINES = {SEQUENCE: "text-classification", TOKEN: "token-classification"}

GENERATE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{place}")
tokenizer = AutoTokenizer.from_pretrained("{place}")
messages = {messages}
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
completion = model.generate(**prompt, max_new_tokens=256, do_sample=True)[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(completion, skip_special_tokens=True))
"""
SCORE = """\
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{place}")
tokenizer = AutoTokenizer.from_pretrained("{place}")
messages = [{{"role": "user", "content": "What is 2 + 2?"}}, {{"role": "assistant", "content": "4"}}]
text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()  # up to the end token of the answer
conversation = tokenizer(text, add_special_tokens=False, return_tensors="pt")
print(model(**conversation).logits)  # {meaning}
"""


def model_card(run: Path, *, architecture: str) -> str:
    """The text of the card.

    Args:
        architecture: the model's class in transformers, such as Qwen3ForCausalLM.
    """
    config, provenance = read_config(run), read_provenance(run)
    title = str(provenance.get("title") or run.name)
    parts = [
        f"# {run.resolve().name}",
        f"{title}, trained with RLHF Lab from {_base_in_words(config)}.",
        "## How it was made",
        _table(["", ""], _facts(config, provenance)),
        f"The command:\n\n```bash\n{provenance.get('command', '')}\n```",
        "All settings are in `config.yaml` of the run.",
        "## Held-out evaluation",
        _evaluation(read_records(run / "eval.jsonl")),
        "## Use it",
        f"```python\n{_usage(architecture, config)}```",
        "## License\n\nNone is chosen yet: add `license: ...` to the lines at the top. The base model and the data may "
        "ask for one.",
    ]
    return f"---\n{_front_matter(config, provenance, architecture)}---\n\n" + "\n\n".join(parts) + "\n"


def base_on_the_hub(name: str) -> str | None:
    """The Hub id that a model name stands for, through any chain of runs; None where none is known."""
    for _ in range(20):  # a chain of runs, each of which names the one before
        if name in PUBLISHED_AS:
            return PUBLISHED_AS[name]
        folder = Path(home(name))
        if not folder.exists():
            return name if HUB_NAME.fullmatch(name) else None
        run = folder.parent if folder.name == "final" else folder
        name = str(read_config(run).get("model_name") or "")
        if not name:
            return None
    return None


def _base_in_words(config: Mapping[str, Any]) -> str:
    if config.get("scratch"):
        return "random weights"
    name = str(config.get("model_name"))
    published = base_on_the_hub(name)
    return f"[{published}](https://huggingface.co/{published})" if published else f"`{name}`"


def _data_sets(config: Mapping[str, Any]) -> list[str]:
    """Ids of Hub data sets that the run learned from, without their subset."""
    data, task = config.get("data") or {}, config.get("task_config") or {}
    named = [holder.get("path") for holder in (data, task) if isinstance(holder, Mapping)]
    ids = [str(name).partition(":")[0] for name in named if name]
    return [it for it in ids if HUB_NAME.fullmatch(it) and not Path(home(it)).exists()]


def _front_matter(config: Mapping[str, Any], provenance: Mapping[str, Any], architecture: str) -> str:
    base = None if config.get("scratch") else base_on_the_hub(str(config.get("model_name")))
    method = config.get("algorithm") or config.get("loss")
    family = str(provenance.get("trainer") or "").partition(".")[0].replace("_", "-")
    told = {
        "base_model": base,
        "datasets": _data_sets(config),
        "pipeline_tag": next((PIPELINES[end] for end in PIPELINES if architecture.endswith(end)), "text-generation"),
        "library_name": "transformers",
        "tags": [str(tag) for tag in ("rlhf-lab", family, method) if tag],
    }
    return yaml.safe_dump({key: value for key, value in told.items() if value}, sort_keys=False)


def _facts(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = provenance.get("versions") or {}
    commit = str(provenance.get("git_commit") or "")[:12]
    code = f"RLHF Lab {provenance.get('version') or ''}".strip() + (f", commit {commit}" if commit else "")
    code += " with uncommitted changes" if commit and provenance.get("git_dirty") else ""
    facts = {
        "base model": _base_in_words(config),
        "data": f"{provenance.get('data') or '-'} (fingerprint {provenance.get('data_fingerprint') or '-'})",
        "algorithm": provenance.get("algorithm") or provenance.get("title"),
        "steps": config.get("max_steps"),
        "learning rate": config.get("lr"),
        "LoRA rank": config.get("lora_rank") or None,
        "seed": provenance.get("seed"),
        "code": code,
        "with": ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if name in versions),
        "started": provenance.get("started"),
    }
    return [(key, str(value)) for key, value in facts.items() if value not in (None, "")]


def _evaluation(records: Iterable[Mapping[str, Any]]) -> str:
    """What each metric was before the first step, and after the last, with the 95 % interval where there is one."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault((str(record.get("data")), str(record.get("metric"))), []).append(record)
    if not found:
        return "Nothing was measured."

    def cell(record: Mapping[str, Any]) -> str:
        return f"{record['value']:z.3f}{in_brackets(record)}" if isinstance(record.get("value"), int | float) else "-"

    rows = [
        (
            data,
            metric,
            cell(own[0]) if len(own) > 1 or own[0].get("step") == 0 else "-",
            cell(own[-1]) if own[-1].get("step") != 0 else "-",
            str(own[-1].get("n", "-")),
        )
        for (data, metric), own in found.items()
    ]
    return "On data that training never saw. Brackets are 95 % intervals; n is the number of what was measured.\n\n" + (
        _table(["data", "metric", "before", "after", "n"], rows)
    )


def _usage(architecture: str, config: Mapping[str, Any]) -> str:
    place = "PATH_OR_HUB_ID"
    if architecture.endswith(SEQUENCE):
        meaning = "one number: the reward of the answer"
        return SCORE.format(auto="AutoModelForSequenceClassification", place=place, meaning=meaning)
    if architecture.endswith(TOKEN):
        meaning = "of each token; read them at the tokens that end a step"
        return SCORE.format(auto="AutoModelForTokenClassification", place=place, meaning=meaning)
    system = [{"role": "system", "content": config["system_prompt"]}] if config.get("system_prompt") else []
    messages = json.dumps([*system, {"role": "user", "content": "..."}], ensure_ascii=False)
    return GENERATE.format(place=place, messages=messages)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown; what stands in a cell opens no other."""

    def line(row: Iterable[str]) -> str:
        return "| " + " | ".join(it.replace("|", "\\|").replace("\n", " ") for it in row) + " |"

    names = list(head)
    return "\n".join(map(line, [names, ["---"] * len(names), *rows]))
