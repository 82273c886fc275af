"""Preference pairs of a policy's own completions, written as a data set:

    uv run python -m direct_alignment.sample_pairs --model_name embedded --task step_arithmetic --output pairs.jsonl
    uv run python -m direct_alignment.sample_pairs --reward_model runs/preference_rm-seed0 --output pairs.jsonl
    uv run python -m direct_alignment.sample_pairs --judge '{model: embedded, by: mean_logp}' --output pairs.jsonl

Samples completions of problems that no evaluation uses, and has them judged: by the task's verifier, whose pairs are a
right and a wrong completion of a problem; by a reward model, whose pairs are the best and the worst; or by a judge
(`rlhf/judges`), which compares any two of them. `--rows labels` writes each completion with the verifier's label. What
is written is what `--data.path` reads.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.config.options import Parser, add_candidates, number, whole
from rlhf.config.paths import user_path
from rlhf.errors import UserError, run_main

if TYPE_CHECKING:
    from rlhf.candidates import Candidates
    from rlhf.data.preferences import Ranking


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    return run_main(lambda: write_pairs(read_options(arguments)), debug="--debug" in arguments)


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m direct_alignment.sample_pairs",
        description="Sample completions of a policy, judge them, and write pairs.",
    )
    add = parser.add_argument
    add("--output", type=user_path, required=True, help="the .jsonl file to write")
    add_candidates(parser, problems=1000, max_new_tokens=64)
    add(
        "--rows",
        choices=("pairs", "labels"),
        default="pairs",
        help="labels: every completion with its verdict, for kto",
    )
    add("--per_problem", type=whole(1), default=1, help="pairs of each problem at most (default: 1)")
    add("--label_noise", type=number(0, 1), default=0.0, help="share of the verifier's pairs labelled otherwise")
    add("--noise", choices=("swap", "longer"), default="swap", help="then the wrong, or the longer one is chosen")
    add("--reward_model", help="a reward model (folder or run directory) that ranks, instead of the verifier")
    add("--judge", help="a judge that compares: a model's name, {url: .., model: ..}, or a .yaml file of it")
    add("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(arguments)


def write_pairs(options: argparse.Namespace) -> int:
    refuse_unusable(options)

    from rlhf.candidates import sample_candidates, to_rankings
    from rlhf.data.files import write_jsonl
    from rlhf.tasks.problem import refuse_unverified
    from rlhf.tasks.registry import open_task

    output: Path = options.output
    task = open_task(options.task, options.task_config, answer_in=options.answer_in)
    if not (options.reward_model or options.judge):
        refuse_unverified(task, "pairing by the verifier")
    candidates = sample_candidates(
        options.model_name,
        task,
        task.train_problems(seed=options.seed, first=0, count=options.problems),
        count=options.candidates,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        temperature=options.temperature,
        system_prompt=options.system_prompt,
    )
    drawn = {"seed": options.seed, "per_problem": options.per_problem}
    if options.rows == "labels":
        return write_labels(output, candidates, options.system_prompt)
    if options.reward_model:
        rankings = judged_by_model(candidates, options.reward_model, system_prompt=options.system_prompt)
    elif options.judge:
        rankings = compared_by_judge(candidates, options.judge, system_prompt=options.system_prompt, **drawn)
    else:
        rankings = to_rankings(candidates, **drawn, label_noise=options.label_noise, noise=options.noise)
    if not rankings:
        raise UserError(
            "no problem has completions that differ in their judgement, so there is no pair to write",
            hint="An easier or harder --task_config, more --problems, or more --candidates of each.",
        )
    write_jsonl(output, [to_row(ranking, options.system_prompt) for ranking in rankings])
    exact = [verdict.exact for one in candidates for _, verdict in one.judged]
    share = f"; {sum(exact) / len(exact):.2f} of the completions are right" if exact else ""
    print(f"{output}: {len(rankings)} pairs of {len(candidates)} problems{share}")
    return 0


def write_labels(output: Path, candidates: "Sequence[Candidates]", system_prompt: str | None) -> int:
    """Every completion that says something, with whether it is right: the classes are as unequal as they are."""
    from rlhf.data.answers import to_columns
    from rlhf.data.files import write_jsonl
    from rlhf.tasks.problem import messages_for

    rows = [
        {
            "prompt": messages_for(one.problem, system_prompt),
            "completion": answer.text,
            "label": verdict.exact == 1,
            **to_columns([answer]),
        }
        for one in candidates
        for answer, verdict in one.judged
        if answer.text.strip()
    ]
    if not rows:
        raise UserError(
            "no completion says anything, so there is none to label",
            hint="Ask the model: uv run python -m rlhf.generate. Perhaps --max_new_tokens is too small.",
        )
    write_jsonl(output, rows)
    right = sum(row["label"] is True for row in rows)
    print(f"{output}: {len(rows)} completions of {len(candidates)} problems, {right} of them right")
    return 0


def refuse_unusable(options: argparse.Namespace) -> None:
    """What can be seen without PyTorch. Raises: UserError, if something that the options name is not there."""
    from rlhf.data.files import refuse_output
    from rlhf.judges.config import read_judge, refuse_missing_judge
    from rlhf.models.names import find_folder, find_policy
    from rlhf.tasks.names import refuse_unknown_task

    refuse_output(options.output)
    refuse_unknown_task(options.task, options.task_config)
    find_policy(options.model_name)
    if options.rows == "labels" and (options.reward_model or options.judge or options.label_noise):
        raise UserError(
            "--rows labels: the labels are the verifier's, and --reward_model, --judge and --label_noise make pairs",
            hint="Leave them out, or --rows pairs.",
        )
    if options.reward_model and options.judge:
        raise UserError(
            "--reward_model and --judge: one of them ranks the completions, and both are given", hint="Leave one out."
        )
    if (options.reward_model or options.judge) and options.label_noise:
        raise UserError(
            "--label_noise is of the verifier's labels, and another one judges here",
            hint="Leave it out, or --reward_model and --judge.",
        )
    if options.reward_model:
        find_folder(options.reward_model, key="reward_model")
    if options.judge:
        refuse_missing_judge(read_judge(options.judge))


def to_row(ranking: "Ranking", system_prompt: str | None) -> dict[str, Any]:
    """The best and the worst completion as `--data.path` reads them."""
    from rlhf.data.answers import to_columns
    from rlhf.tasks.problem import with_system

    return {
        "prompt": with_system(ranking.prompt, system_prompt),
        "chosen": ranking.completions[0],
        "rejected": ranking.completions[-1],
        **({} if ranking.margin is None else {"margin": ranking.margin}),
        **to_columns(ranking.answers),
    }


def compared_by_judge(
    candidates: Sequence["Candidates"], judge: str, *, seed: int, per_problem: int, system_prompt: str | None
) -> list["Ranking"]:
    """Pairs of any two completions, the one that the judge prefers first; says what it left out, and what it cost."""
    from rlhf.judges.config import read_judge
    from rlhf.judges.judge import open_judge
    from rlhf.judges.labelling import label_pairs

    config = read_judge(judge)
    opened = open_judge(config)
    drawn = {"seed": seed, "per_problem": per_problem}
    labelled = label_pairs(candidates, opened, swap=config.swap, system_prompt=system_prompt, **drawn)
    for line in [*labelled.lines(), *(opened.usage.lines() if opened.usage else [])]:
        print(line)
    return labelled.rankings


def judged_by_model(
    candidates: Sequence["Candidates"], reward_model: str, *, system_prompt: str | None
) -> list["Ranking"]:
    """The completions that the model gives the highest and the lowest reward; the margin is their difference."""
    from rlhf.data.preferences import Ranking
    from rlhf.models.reward_model import RewardModel
    from rlhf.tasks.problem import messages_for

    model = RewardModel([reward_model])
    judged = []  # candidates that say something, each answer once
    for one in candidates:
        if answers := list(dict.fromkeys(answer for answer in one.answers if answer.text.strip())):
            judged.append((one, answers))
    rewards = model.score([(messages_for(one.problem, system_prompt), answers) for one, answers in judged])
    rankings = []
    for (one, answers), scores in zip(judged, rewards, strict=True):
        reward = dict(zip(answers, scores, strict=True))
        if len(set(scores)) < 2:
            continue
        best, worst = max(reward, key=reward.__getitem__), min(reward, key=reward.__getitem__)
        rankings.append(
            Ranking.of_answers(messages_for(one.problem, None), [best, worst], reward[best] - reward[worst])
        )
    return rankings


if __name__ == "__main__":
    sys.exit(main())
