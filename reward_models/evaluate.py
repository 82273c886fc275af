"""Evaluate a reward model: uv run python -m reward_models.evaluate runs/preference_rm-seed0

On the run's own held-out data, or on a file: pairs as for training (of RewardBench and RewardBench 2 each `subset` gets
a score), solutions with labels for an outcome model, labelled steps for a process model. Writes evaluation.jsonl and
evaluation.html.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.config.options import Parser, whole
from rlhf.config.paths import refuse_strangers, user_path
from rlhf.errors import UserError, run_main

KINDS = {  # by the trainer that a run records
    "reward_models.train_preference_rm": "preference",
    "reward_models.train_orm": "outcome",
    "reward_models.train_prm": "process",
}


def evaluate(run: Path, data: str | None, *, split: str, output: Path, token_budget: int, device: str) -> None:
    # What needs no PyTorch comes first.
    from rlhf.data.rows import load_rows, refuse_missing
    from rlhf.models.names import find_folder
    from rlhf.report.html import BEGINNING

    kind, config = _config(run)
    find_folder(str(run), key="run")
    for name, beginning in (("evaluation.jsonl", b'{"'), ("evaluation.html", BEGINNING.encode())):
        refuse_strangers(output / name, beginning, "evaluation of this project")
    if data is not None:
        refuse_missing(data, key="--data")

    from reward_models.evaluation_page import write_evaluation
    from reward_models.held_out_metrics import outcome_result, preference_result, process_result, subset_records
    from reward_models.outcome_data import outcome_data, outcome_examples
    from reward_models.preference_data import preference_data, preference_examples
    from reward_models.process_data import process_data, process_examples
    from reward_models.shortcuts import add_shortcuts, of_outcome, of_preference, of_process
    from rlhf.data.files import write_jsonl
    from rlhf.distributed import open_device
    from rlhf.models.heads import HeadScorer, load_trained, read, takes_shared_rows
    from rlhf.models.tokenizer import load_tokenizer
    from rlhf.statistics import in_brackets

    opened = open_device(device)
    load, of_rows, shortcuts, judge = {
        "preference": (preference_data, preference_examples, of_preference, preference_result),
        "outcome": (outcome_data, outcome_examples, of_outcome, outcome_result),
        "process": (process_data, process_examples, of_process, process_result),
    }[kind]
    tokenizer, tried = load_tokenizer(str(run)), []
    if data is None:
        own, name = load(config, tokenizer, print), "held-out"
        examples, tried = own.held_out, shortcuts(own.train, own.held_out, data=name)
    else:
        examples, name = of_rows(load_rows(data, split=split), tokenizer, config, print), Path(data).name
    model, _ = load_trained(str(run))
    model.to(opened)
    groups = [example.group for example in examples]
    shared = takes_shared_rows(model)
    found = read(HeadScorer(model), groups, token_budget=token_budget, shared_prefix=shared, device=opened)
    result = judge(found, examples, name)
    subsets = [example.subset for example in examples]
    if any(subsets) and all(example.right or len(example.group.completions) == 2 for example in examples):
        result.records.extend(subset_records(found, examples, subsets, name))
    add_shortcuts(result, tried)
    records = [*result.records, *result.baselines]
    write_jsonl(output / "evaluation.jsonl", records)
    for record in records:
        value = f"{record['value']:.3f}{in_brackets(record)}"
        print(f"{record['data']:<24} {record['metric']:<32} {value}  n = {record['n']}")
    print(write_evaluation(output, result, title=f"{kind.capitalize()} RM {run.name}"))


def _config(run: Path) -> "tuple[str, Any]":
    """The kind of model, and the settings that it was trained with."""
    from reward_models.config import OutcomeConfig, PreferenceConfig, ProcessConfig
    from rlhf.config.command import read_command
    from rlhf.config.recorded import read_provenance, trainer_of

    file = run / "config.yaml"
    if not file.is_file():
        raise UserError(f"'{run}' is no run of a reward model: it has no config.yaml")
    kind = KINDS.get(trainer_of(read_provenance(run)))
    if kind is None:
        raise UserError(f"'{run}' is a run, but not of a reward model")
    config_class = {"outcome": OutcomeConfig, "process": ProcessConfig, "preference": PreferenceConfig}[kind]
    return kind, read_command(config_class, ["--config", str(file)], prog="", description="").config


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m reward_models.evaluate", description="Evaluate a reward model.")
    parser.add_argument("run", type=user_path, metavar="RUN", help="directory of a finished run")
    parser.add_argument("--data", metavar="FILE", help="file or Hub set (default: the run's own held-out data)")
    parser.add_argument("--split", default="train", help="split of a Hub set (default: train)")
    parser.add_argument("--output", type=user_path, metavar="DIR", help="folder to write to (default: RUN)")
    parser.add_argument("--token_budget", type=whole(1, 2**31), default=8192, help="tokens in a micro-batch")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto is CUDA if it is there, else CPU"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    o = parser.parse_args(arguments)
    output = o.output or o.run
    evaluate(o.run, o.data, split=o.split, output=output, token_budget=o.token_budget, device=o.device)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
