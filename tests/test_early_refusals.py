"""What can be seen without PyTorch, which takes seconds to load, is refused before it is loaded: in every command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PG, SFT, DPO = "policy_gradients.train", "instruction_tuning.train", "direct_alignment.train"
DISTILL = "distillation.train"
REJECT, BEST_OF_N = "rejection_sampling.train", "rejection_sampling.best_of_n"
PREFERENCE, ORM, PRM = "reward_models.train_preference_rm", "reward_models.train_orm", "reward_models.train_prm"
TRAINERS = (PG, SFT, DPO, DISTILL, REJECT, PREFERENCE, ORM, PRM)
PAIRS = "direct_alignment.sample_pairs"
CHAT, GENERATE, EVALUATE = "rlhf.chat.__main__", "rlhf.generate.__main__", "rlhf.evaluate.__main__"
DIFFICULTY = "rlhf.evaluate.difficulty"
TALKING = (
    (CHAT, []),
    (GENERATE, ["--prompts", "nobody/no-such", "--output", "o.jsonl"]),
    (EVALUATE, ["--task", "spell_backward"]),
    (DIFFICULTY, ["--task", "spell_backward", "--output", "o.jsonl"]),
)
JUDGES = "rlhf.judges.__main__"
PIPELINE = "pipeline.run"
COMPARE = ("policy_gradients.compare", "direct_alignment.compare", "rejection_sampling.compare")

# (command, arguments, what the message names)
CASES: list[tuple[str, list[str], str]] = [
    *((command, ["--output_dir", "taken"], "'taken' exists already") for command in TRAINERS),
    *((command, ["--output_dir", "taken", "--overwrite"], "'taken' is left alone") for command in TRAINERS),
    *((command, ["--resume", "--output_dir", "nothing"], "no run in 'nothing'") for command in TRAINERS),
    *((command, ["--model_name", "./nowhere"], "there is no folder './nowhere'") for command in TRAINERS),
    *((command, ["--model_name", "taken"], "the folder 'taken' holds no model") for command in TRAINERS),
    *(
        (command, ["--model_name", "nobody/no-such"], "'nobody/no-such' is neither a folder here")
        for command in TRAINERS
    ),
    *(
        (command, ["--model_name", "embedded-judge"], "model_name: 'embedded-judge' is a reward model")
        for command in TRAINERS
        if command not in (PREFERENCE, ORM, PRM)
    ),
    *((command, ["--config", "no_such"], "there is no config file no_such") for command in TRAINERS),
    *((command, ["--max_step", "3"], "did you mean '--max_steps'?") for command in TRAINERS),
    *((command, ["--lr", "fast"], 'lr is "fast"') for command in TRAINERS),
    *(
        (command, ["--data.path", "rows.jsonl"], "there is no file 'rows.jsonl'")
        for command in TRAINERS
        if command not in (PG, DISTILL, REJECT)
    ),
    (DPO, ["--data.path", "nobody/no-such"], "the Hub did not give it: HF_HUB_OFFLINE is set"),
    *((command, ["--data.task", "spell"], "did you mean 'spell_backward'?") for command in (PREFERENCE, ORM, PRM)),
    (PG, ["--task", "spel_backward"], "did you mean 'spell_backward'?"),
    (PG, ["--tasks", "{spel_backward: {}}"], "did you mean 'spell_backward'?"),
    (PG, ["--group_size", "1"], "group_size: grpo compares"),
    (PG, ["--algorithm", "grop"], "did you mean 'grpo'?"),
    (PG, ["--algorithm", "reinforce", "--clip_low", "0.1"], "clip_low: reinforce does not have it"),
    (PG, ["--reward_functions", "{'nowhere.py:f': 1}"], "there is no file 'nowhere.py'"),
    (PG, ["--reward_model", "./nowhere"], "reward_model: there is no folder './nowhere'"),
    (DPO, ["--loss", "dppo"], "did you mean 'dpo'?"),
    (DPO, ["--task", "spel_backward"], "did you mean 'spell_backward'?"),
    (DPO, ["--loss", "dpo", "--orpo_lambda", "0.1"], "orpo_lambda: dpo does not have it"),
    (SFT, ["--data.tasks", "{spel_backward: {}}"], "did you mean 'spell_backward'?"),
    (DISTILL, ["--task", "spel_backward"], "did you mean 'spell_backward'?"),
    (DISTILL, ["--teacher", "./nowhere"], "teacher: there is no folder './nowhere'"),
    (DISTILL, ["--teacher", "embedded-judge"], "teacher: 'embedded-judge' is a reward model"),
    (DISTILL, ["--teacher_temperature", "1"], "teaches nothing"),
    (DISTILL, ["--objective", "sequence"], "on_policy_share 1: sequence is the likelihood"),
    (DISTILL, ["--objective", "sampled_token", "--on_policy_share", "0.5"], "sampled_token is a policy gradient"),
    (DISTILL, ["--jsd_beta", "0.5"], "jsd_beta: only objective jsd has it"),
    (
        DISTILL,
        ["--objective", "sampled_token", "--teacher_top_k", "5"],
        "teacher_top_k: sampled_token looks at one token",
    ),
    (DISTILL, ["--teachers", "{spell_backward: embedded}"], "each task has one teacher"),
    (DISTILL, ["--teacher", "embedded", "--teacher_moves", "live"], "only the student's own weights move"),
    (DISTILL, ["--teacher_moves", "following", "--lora_rank", "4"], "with lora_rank it is fixed"),
    (DISTILL, ["--config", "offline", "--teacher", "embedded", "--texts.path", "no.jsonl"], "asks no teacher"),
    (DISTILL, ["--on_policy_share", "0.5", "--texts.path", "no.jsonl"], "texts.path: there is no file 'no.jsonl'"),
    (DISTILL, ["--teacher_sees", "attempt", "--teacher_prompt", "{question}"], "{attempt} is missing"),
    (DISTILL, ["--teacher_sees", "answer", "--teacher_prompt", "{answer} {verdict}"], "{verdict} is not known"),
    (REJECT, ["--tasks", "{spel_backward: {}}"], "did you mean 'spell_backward'?"),
    (REJECT, ["--reward_model", "./nowhere"], "reward_model: there is no folder './nowhere'"),
    (REJECT, ["--selection", "top_per_promt"], "accepted: one of top_per_prompt, top_k_overall"),
    (REJECT, ["--keep", "9"], "keep 9: 8 completions are sampled of a prompt"),
    (BEST_OF_N, ["--task", "spel_backward"], "did you mean 'spell_backward'?"),
    (BEST_OF_N, ["--model_name", "./nowhere"], "model_name: there is no folder './nowhere'"),
    (BEST_OF_N, ["--model_name", "embedded-judge"], "is a reward model"),
    (BEST_OF_N, ["--reward_model", "embedded-judge", "./nowhere"], "reward_model: there is no folder './nowhere'"),
    (BEST_OF_N, ["--problems", "1"], "intervals are over problems"),
    (BEST_OF_N, ["--samples", "8", "--largest_n", "9"], "only 8 answers are sampled"),
    (BEST_OF_N, ["--combine", "min"], "--combine min: an ensemble has several reward models"),
    (PIPELINE, ["--config", "no_such"], "there is no config file no_such"),
    (PIPELINE, ["--optimizers", "grop"], "did you mean 'grpo'?"),
    (PIPELINE, ["--output_dir", "taken/novel.odt"], "'taken/novel.odt/chain.md' cannot be written"),
    (ORM, ["--data.policy", "embedded-judge"], "data.policy: 'embedded-judge' is a reward model"),
    (ORM, ["--data.policy", "./nowhere"], "data.policy: there is no folder './nowhere'"),
    ("reward_models.score", ["embedded", "--data", "no.jsonl", "--output", "out.jsonl"], "there is no file 'no.jsonl'"),
    ("reward_models.score", ["nowhere", "--data", "n.csv", "--output", "no/out.jsonl"], "there is no folder 'no'"),
    ("reward_models.score", ["./nowhere", "--data", "a/b", "--output", "o.jsonl"], "there is no folder './nowhere'"),
    ("reward_models.evaluate", ["taken"], "'taken' is no run of a reward model"),
    ("reward_models.sample", ["--output", "o.jsonl", "--task", "spel_backward"], "did you mean 'spell_backward'?"),
    ("reward_models.sample", ["--output", "o.jsonl", "--model_name", "./nowhere"], "there is no folder './nowhere'"),
    ("reward_models.sample", ["--output", "no/o.jsonl"], "there is no folder 'no'"),
    (PAIRS, ["--output", "o.jsonl", "--task", "spel_backward"], "did you mean 'spell_backward'?"),
    (PAIRS, ["--output", "o.jsonl", "--reward_model", "./nowhere"], "reward_model: there is no folder './nowhere'"),
    (PAIRS, ["--output", "o.txt"], "'o.txt' is not a .jsonl file"),
    (JUDGES, ["--judge", "embedded", "--output", "o.txt"], "'o.txt' is not a .jsonl file"),
    (JUDGES, ["--judge", "embedded", "--output", "o.jsonl", "--candidates", "1"], "--candidates is 1; accepted"),
    (JUDGES, ["--judge", "embedded-judge", "--output", "o.jsonl"], "judge: 'embedded-judge' is a reward model"),
    (JUDGES, ["--judge", "{}", "--output", "o.jsonl"], "judge: model is not set"),
    (JUDGES, ["--judge", "{model: m, by: mean}", "--output", "o.jsonl"], 'judge: by is "mean"; accepted: one of'),
    (PAIRS, ["--output", "o.jsonl", "--model_name", "embedded-judge"], "model_name: 'embedded-judge' is a reward"),
    (PAIRS, ["--output", "o.jsonl", "--judge", "./nowhere"], "judge: there is no folder './nowhere'"),
    (PAIRS, ["--output", "o.jsonl", "--judge", "embedded", "--reward_model", "r"], "--reward_model and --judge: one"),
    (JUDGES, ["--judge", "./nowhere", "--output", "o.jsonl"], "judge: there is no folder './nowhere'"),
    (JUDGES, ["--judge", "j.yaml", "--output", "o.jsonl"], "judge: there is no file 'j.yaml'"),
    (JUDGES, ["--judge", "{modell: m}", "--output", "o.jsonl"], "unknown key modell; did you mean 'model'"),
    (JUDGES, ["--judge", "embedded", "--output", "o.jsonl", "--task", "spel_backward"], "'spell_backward'?"),
    (JUDGES, ["--judge", "embedded", "--output", "o.jsonl", "--data", "no.jsonl"], "there is no file 'no.jsonl'"),
    (
        JUDGES,
        ["--judge", "{model: m, url: http://h/v1, key_from: NO_SUCH_KEY}", "--output", "o.jsonl"],
        "the environment variable NO_SUCH_KEY is not set",
    ),
    (JUDGES, ["--judge", "{model: m, url: http://127.0.0.1:9/v1}", "--output", "o.jsonl"], "cannot be reached"),
    (PG, ["--reward_functions", "{nowhere.yaml: 1}"], "reward_functions: there is no file 'nowhere.yaml'"),
    ("rlhf.report.__main__", ["nowhere"], "nowhere"),
    *((command, ["./nowhere", *more], "MODEL: there is no folder './nowhere'") for command, more in TALKING),
    *((command, ["taken", *more], "the folder 'taken' holds no model") for command, more in TALKING),
    *((command, ["embedded-judge", *more], "is a reward model") for command, more in TALKING),
    *((command, ["embedded", *more, "--temperature", "-1"], "--temperature is -1") for command, more in TALKING),
    *((command, ["embedded", *more, "--chat_template", "no.jinja"], "no file 'no.jinja'") for command, more in TALKING),
    *(
        (command, ["embedded", *more, "--max_token", "3"], "unrecognized arguments: --max_token")
        for command, more in TALKING
    ),
    (CHAT, ["embedded", "--task", "spel_backward"], "did you mean 'spell_backward'?"),
    (GENERATE, ["embedded", "--prompts", "no.jsonl", "--output", "o.jsonl"], "there is no file 'no.jsonl'"),
    (GENERATE, ["embedded", "--prompts", "no.jsonl", "--output", "no/o.jsonl"], "there is no folder 'no'"),
    (EVALUATE, ["embedded"], "--task: what is to be evaluated?"),
    (EVALUATE, ["./nowhere"], "MODEL: there is no folder './nowhere'"),
    (EVALUATE, ["embedded", "--task", "spel_backward"], "did you mean 'spell_backward'?"),
    (EVALUATE, ["embedded", "--task", "ab", "--data", "no.jsonl"], "--task and --data: one of them"),
    (EVALUATE, ["embedded", "--data", "no.jsonl"], "--data: there is no file 'no.jsonl'"),
    (EVALUATE, ["embedded", "--task", "ab", "--output", "o.txt"], "'o.txt' is not a .jsonl file"),
    (EVALUATE, ["embedded", "--task", "ab", "--output", "no/o.jsonl"], "there is no folder 'no'"),
    (EVALUATE, ["embedded", "--task", "ab", "--reward_model", "./nowhere"], "reward_model: there is no folder"),
    (EVALUATE, ["embedded", "embedded", "--task", "ab"], "the same model twice"),
    (EVALUATE, ["embedded", "--task", "ab", "--samples", "0"], "--samples is 0"),
    *((command, ["--seeds", "0"], "--seeds: at least 1") for command in COMPARE),
    *((command, ["--max_steps", "0"], "max_steps is 0") for command in COMPARE),
]

PROGRAM = """
import contextlib, importlib, io, json, sys
from rlhf.errors import run_main
for command, arguments, _ in json.load(sys.stdin):
    sys.argv = [command, *arguments]
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        code = run_main(importlib.import_module(command).main, debug=False)
    loaded = {"torch", "transformers", "accelerate", "reasoning_gym"} & set(sys.modules)
    print(json.dumps([code, error.getvalue(), sorted(loaded)]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, list[str]]]:
    """Exit code, message, and which heavy packages were loaded for it: of all commands, in one process."""
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "taken").mkdir()
    (folder / "taken" / "novel.odt").write_text("years of work")
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["taken"], "nothing is left behind"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=lambda number: " ".join([CASES[number][0], *CASES[number][1]])
)
def test_refused_without_pytorch(answers: list[tuple[int, str, list[str]]], number: int) -> None:
    code, error, loaded = answers[number]
    assert CASES[number][2] in error
    assert (code, loaded) == (2, [])
