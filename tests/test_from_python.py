"""Runs that a Python program calls: one for each family, with objects or names; light until one is called."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import direct_alignment
import distillation
import instruction_tuning
import policy_gradients
import reward_models
from policy_gradients.config import PolicyGradientConfig
from rlhf.config.recorded import read_config
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.errors import UserError
from rlhf.models.live import LiveModel
from rlhf.run.from_python import as_path, named_functions, to_argv
from rlhf.run.result import RunResult

ROOT = Path(__file__).parents[1]
SHORT: dict[str, Any] = {"profile": "laptop", "device": "cpu", "precision": "fp32", "max_steps": 2}
WORDS = [f"{a}{b}{c}" for a in "abcd" for b in "efgh" for c in "ij"]


@pytest.fixture(scope="module")
def live() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = new_model(**sizes, num_attention_heads=2, num_key_value_heads=1)
    return model.to(torch.bfloat16), character_tokenizer()


@pytest.fixture(autouse=True)
def _own_cache_and_no_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rlhf.run.session.write_report", lambda run: run)


def short(prompt: str, completion: str) -> float:
    return -len(completion) / 10


def of_policy_gradients(**settings: Any) -> RunResult:
    sizes = {"group_size": 2, "prompts_per_step": 2, "max_new_tokens": 4, "eval_problems": 2}
    return policy_gradients.run(algorithm="rloo", **{**SHORT, **sizes, **settings})


def of_distillation(**settings: Any) -> RunResult:
    sizes = {"group_size": 2, "prompts_per_step": 2, "max_new_tokens": 4, "eval_problems": 2}
    texts = [{"prompt": f"say {word}", "completion": word} for word in WORDS]
    return distillation.run(
        **{**SHORT, **sizes, "conversations": texts, "on_policy_share": 0.5, "teacher_temperature": 0.5, **settings}
    )


def of_reward_models(kind: str) -> Callable[..., Any]:
    data = {"held_out": 4, "validation": 4}
    pairs = [{"prompt": f"say {word}", "chosen": word, "rejected": "no"} for word in WORDS]
    solutions = [{"question": f"say {w}", "completions": [w, "no"], "labels": [True, False]} for w in WORDS]
    steps = [{"prompt": f"say {w}", "completions": [w, "no"], "labels": [True, False]} for w in WORDS]
    rows = {"preference": pairs, "orm": solutions, "prm": steps}[kind]

    def run(**settings: Any) -> Any:
        sizes = {"batch_size": 4, "extra_layers": 0, "data": data, "rows": rows}
        return reward_models.run(kind=kind, **{**SHORT, **sizes, **settings})

    return run


def of_alignment(**settings: Any) -> Any:
    pairs = [{"prompt": f"say {word}", "chosen": word, "rejected": "no"} for word in WORDS]
    sizes = {"batch_size": 4, "data": {"held_out": 4}, "task": None, "eval_samples": 0, "pairs": pairs}
    return direct_alignment.run(loss="ipo", **{**SHORT, **sizes, **settings})


def of_tuning(**settings: Any) -> Any:
    talks = [
        {"messages": [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": word}]}
        for word in WORDS
    ]
    return instruction_tuning.run(
        **{**SHORT, "batch_size": 4, "data": {"held_out": 4}, "conversations": talks, **settings}
    )


FAMILIES = {
    "policy gradients": lambda **given: of_policy_gradients(prompts=WORDS, reward=short, **given),
    "preference": of_reward_models("preference"),
    "orm": of_reward_models("orm"),
    "prm": of_reward_models("prm"),
    "alignment": of_alignment,
    "tuning": of_tuning,
    "distillation": of_distillation,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_of_objects(family: str, live, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A model in bf16 that stays as it is, and rows in a list: the result has the trained one, and measurements."""
    model, tokenizer = live
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    result = FAMILIES[family](model=model, tokenizer=tokenizer, output_dir=tmp_path / "run", lr=0.1)
    assert capfd.readouterr().out == "", "nothing is printed unless asked"
    assert result.finished
    assert result.path == tmp_path / "run"
    assert [record["step"] for record in result.metrics] == [1, 2]
    assert {record["step"] for record in result.eval} >= {0, 2}
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    body, trained = model.base_model, result.model.base_model
    assert any(not torch.equal(a, b) for a, b in zip(body.parameters(), trained.parameters(), strict=True))
    assert {weight.dtype for weight in trained.parameters()} == {torch.bfloat16}, "in the model's own precision"
    assert (result.path / "final" / "model.safetensors").is_file()
    recorded = read_config(result.path)
    assert recorded["model_name"] == LiveModel(model, tokenizer).name
    assert str(tmp_path / "cache") in str(recorded)


def test_own_functions_are_components_of_the_reward(live, tmp_path: Path) -> None:
    """By function and by name, weighted; they are told what the rows have."""
    seen: list[Any] = []

    def kind(prompts: list[str], completions: list[str], colour: list[str], **_: Any) -> list[float]:
        seen.extend(zip(prompts, colour, strict=True))
        return [1.0] * len(completions)

    mine = tmp_path / "mine.py"
    mine.write_text("def two(prompt, completion):\n    return 2.0\n")
    rows = [{"prompt": word, "colour": f"the {word}"} for word in WORDS]
    result = of_policy_gradients(
        model=live[0],
        tokenizer=live[1],
        prompts=rows,
        reward={kind: 0.5, f"{mine}:two": 3},
        output_dir=tmp_path / "run",
    )
    assert [record["reward/mean"] for record in result.metrics] == [6.5, 6.5]
    assert seen
    assert all(colour == f"the {prompt}" for prompt, colour in seen)
    assert read_config(result.path)["reward_functions"] == {"python:kind": 0.5, f"{mine}:two": 3.0}


def test_a_run_is_resumed_with_the_same_objects(live, tmp_path: Path) -> None:
    """The command line, and a program with another model, are told whose they are."""
    given = {"prompts": WORDS, "reward": short, "output_dir": tmp_path / "run", "save_every": 1}
    objects = {"model": live[0], "tokenizer": live[1]}
    of_policy_gradients(**given, **objects)
    more = of_policy_gradients(**given, **objects, resume=True, max_steps=3)
    assert [record["step"] for record in more.metrics] == [1, 2, 3]
    with pytest.raises(UserError, match=r"reward_functions: 'python:short' is an object of a Python program"):
        policy_gradients.run(resume=True, output_dir=tmp_path / "run", max_steps=4)
    with pytest.raises(UserError, match=r"model_name is .*python:Qwen3.* in the run, .*embedded"):
        of_policy_gradients(**given, model="embedded", resume=True, max_steps=4)


def test_mistakes_are_raised(live, tmp_path: Path) -> None:
    model, tokenizer = live
    for settings, message in (
        ({"learning_rate": 1}, "unknown option --learning_rate"),
        ({"lr": "fast"}, r"lr is .*fast.*a number"),
        ({"algorithm": "gpro"}, "there is no 'gpro'"),
        ({"tokenizer": tokenizer}, "tokenizer: it goes with a model that is handed over"),
        ({"model": tmp_path / "nothing"}, "model_name: there is no folder"),
        ({"model": torch.nn.Linear(1, 1), "tokenizer": tokenizer}, "model is a Linear; accepted: a PreTrainedModel"),
        ({"model": model, "tokenizer": "embedded"}, "tokenizer is a str"),
        ({"prompts": []}, "prompts: there are no rows"),
        ({"prompts": [{"text": "x"}] * 30, "reward": short}, "prompt"),
        ({"reward": lambda a: 0.0}, "wanted"),
        ({"plan": True}, "plan: it belongs to the command line"),
    ):
        with pytest.raises(UserError, match=message):
            policy_gradients.run(**{**SHORT, "output_dir": tmp_path / "run", **settings})
    with pytest.raises(UserError, match="kind is 'outcome'; accepted: preference, orm, prm"):
        reward_models.run(kind="outcome")  # ty: ignore[invalid-argument-type]
    assert not (tmp_path / "run").exists()


def test_settings_become_a_command_line() -> None:
    settings = {"lr": 1e-5, "reward_weights": {"format": 0.5}, "resume": True, "overwrite": False, "critic": None}
    settings |= {"system_prompt": "--x: [1]", "task_config": {"n": [1]}, "output_dir": Path("a b"), "tensorboard": True}
    settings |= {"profile": "laptop", "seed": torch.tensor(3)}
    assert to_argv(settings, PolicyGradientConfig) == [
        *("--lr=1e-05", "--reward_weights.format=0.5", "--resume", "--critic=null", "--system_prompt=--x: [1]"),
        *('--task_config={"n": [1]}', "--output_dir=a b", "--tensorboard=true", "--profile=laptop", "--seed=3"),
    ]


def test_rows_are_a_file_named_by_their_content(tmp_path: Path) -> None:
    first = as_path([{"a": 1}], key="rows")
    assert Path(first).read_text() == '{"a": 1}\n'
    assert as_path(iter([{"a": 1}]), key="rows") == first
    assert as_path([{"a": 2}], key="rows") != first
    assert as_path("owner/name", key="rows") == "owner/name"
    assert as_path(tmp_path / "x.jsonl", key="rows") == str(tmp_path / "x.jsonl")


def test_functions_have_names() -> None:
    assert named_functions(short) == ({"python:short": 1.0}, {"python:short": short})
    assert named_functions([short, "a.py:b"])[0] == {"python:short": 1.0, "a.py:b": 1.0}
    assert [*named_functions(lambda prompt, completion: 1.0)[0]] == ["python:reward"]
    with pytest.raises(UserError, match="two functions have the name reward"):
        named_functions([lambda completion: 1.0, lambda completion: 2.0])


def test_importing_is_light() -> None:
    families = "policy_gradients, reward_models, direct_alignment, instruction_tuning, rejection_sampling, distillation"
    code = f"import sys, {families}; print([f.run for f in ({families})] and 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_what_a_result_has_is_what_is_saved(live, tmp_path: Path) -> None:
    result = of_tuning(model=live[0], tokenizer=live[1], output_dir=tmp_path / "run")
    saved = AutoModelForCausalLM.from_pretrained(result.path / "final").state_dict()
    for name, weight in result.model.state_dict().items():
        assert torch.equal(weight, saved[name]), name
    assert AutoTokenizer.from_pretrained(result.path / "final").chat_template == result.tokenizer.chat_template


def test_the_model_of_a_result_is_an_ordinary_one(live, tmp_path: Path) -> None:
    """Of LoRA in bf16, where frozen weights are stored in a way of their own while the run takes."""
    objects = {"model": live[0], "tokenizer": live[1]}
    result = of_tuning(**objects, output_dir=tmp_path / "run", lora_rank=2, precision="bf16", lr=0.5)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        logits = result.model(ids).logits
        saved = AutoModelForCausalLM.from_pretrained(result.path / "final")(ids).logits
    torch.testing.assert_close(logits, saved, atol=0.02, rtol=0.02)
    assert (result.path / "adapter" / "adapter_model.safetensors").is_file()


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells in order, in one namespace, as a notebook runs them."""
    notebook = json.loads((ROOT / "docs" / "notebooks" / "quickstart.ipynb").read_text())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert [path.name for path in sorted((tmp_path / "runs").iterdir())] == ["dpo-seed0", "grpo-seed0", "rloo-seed0"]
    out = capsys.readouterr().out
    assert "1 right:" in out
    assert "there is no 'gpro'" in out
    assert len(names["answer"])
