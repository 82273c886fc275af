"""The loop: what a round samples and selects, each optimizer step recomputed by itself, rounds, cache, refusals."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from steps_by_hand import Step, check_gradient, check_log, record_steps, save_tiny, token_logp
from torch import Tensor, nn

import rejection_sampling
from rejection_sampling import rounds, train
from rejection_sampling.rounds import Rounds
from rlhf.embedded.make import character_tokenizer
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.models.reward_model import RewardModel
from rlhf.run.tracking import read_records
from rlhf.sampling import SampledCompletions
from rlhf.tasks.problem import Problem, Verdict, is_held_out
from rlhf.tasks.procedural import ProceduralTask

B, G, LONGEST = 6, 4, 7
SETTINGS = [
    *("--profile", "laptop", "--quiet", "--device", "cpu", "--eval_problems", "1", "--save_every", "99"),
    *("--prompts_per_round", str(B), "--group_size", str(G), "--max_new_tokens", str(LONGEST)),
    *("--steps_per_round", "2", "--max_steps", "4", "--batch_size", "4", "--token_budget", "90", "--lr", "0.01"),
]


class Run:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.batches: list[list[Group]] = []
        self.sampled: list[list[SampledCompletions]] = []  # of each call of `sample`
        self.problems: list[Problem] = []  # that were verified
        self.weights: list[Tensor] = []  # a weight of the policy when it was asked to sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Completions are drawn from their keys; their reward is a function of their text. One in four is cut off."""
    found, plain = Run(), Rounds.batch
    ends = character_tokenizer().convert_tokens_to_ids("<|end|>")

    def sample(model: nn.Module, prompts: Sequence, *, completions: int, keys, **_) -> list[SampledCompletions]:
        found.weights.append(next(model.parameters()).detach().clone())
        made = []
        for key in keys:
            generator = torch.Generator().manual_seed(zlib.crc32(repr(list(key)).encode()))
            one = SampledCompletions([], [], [])
            for _ in range(completions):
                size = int(torch.randint(1, LONGEST, (1,), generator=generator))
                cut = bool(torch.rand(1, generator=generator) < 0.25)
                tokens = torch.randint(12, 100, (size,), generator=generator).tolist()
                one.tokens.append([*tokens, *([] if cut else [ends])])
                one.truncated.append(cut)
            made.append(one)
        found.sampled.append(made)
        return made

    def verify(_task: ProceduralTask, problem: Problem, completion: str) -> Verdict:
        found.problems.append(problem)
        return Verdict(float(zlib.crc32(completion.encode()) % 3 == 0), 1.0, 0.0)

    def batch(own: Rounds, place: int) -> list[Group]:
        found.batches.append(plain(own, place))
        return found.batches[-1]

    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)
    monkeypatch.setattr(rounds, "sample", sample)
    monkeypatch.setattr(ProceduralTask, "verify", verify)
    monkeypatch.setattr(Rounds, "batch", batch)
    monkeypatch.setattr("rlhf.evaluate.held_out.evaluate_task", lambda *_, **__: accuracy())
    found.steps = record_steps(monkeypatch, "rlhf.optimizer")
    return found


def accuracy() -> dict:
    return {"data": "spell_backward", "metric": "accuracy", "value": 0.5, "n": 1}


def go(folder: Path, output: Path, *more: str):
    arguments = [*SETTINGS, "--model_name", str(folder), "--output_dir", str(output), *more]
    return train.train(train.read(arguments))


def reward_of(text: str) -> float:
    return float(zlib.crc32(text.encode()) % 3 == 0)


def test_every_step_learns_what_was_selected(run: Run, folder: Path, tmp_path: Path) -> None:
    """The gradient is that of the mean over all tokens of the step's completions, each with its own prompt; of each
    prompt of a round the selection is one of the highest reward; the policy that samples a round is the one that was
    trained until then; no problem is held out."""
    go(folder, tmp_path / "run")
    text = character_tokenizer()
    assert len(run.steps) == 4
    assert len(run.sampled) == 2
    for step, batch in zip(run.steps, run.batches, strict=True):
        model = step.at()
        terms = [token_logp(model, group.prompt, *group.completions) for group in batch]
        check_gradient(step, model, -torch.cat(terms).mean())
    name = next(iter(run.steps[0].before))
    assert torch.equal(run.weights[0], run.steps[0].before[name])
    assert torch.equal(run.weights[1], run.steps[1].after[name]), "the second round is of the trained policy"
    for number, sampled in enumerate(run.sampled):
        learned = [group.completions[0] for batch in run.batches[2 * number :][:2] for group in batch]
        best = []
        for one in sampled:
            ended = [tokens for tokens, cut in zip(one.tokens, one.truncated, strict=True) if not cut]
            rewards = [reward_of(text.decode(tokens[:-1])) for tokens in ended]
            best += [tokens for tokens, reward in zip(ended, rewards, strict=True) if reward == max(rewards)]
        assert all(tokens in best for tokens in learned)
    asked = {problem.question for problem in run.problems}
    assert not any(map(is_held_out, asked))
    assert len(asked) == 2 * B, "a round has problems of its own"
    check_log(tmp_path / "run", ["loss"], steps=run.steps)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [record.get("round") for record in records] == [1, None, 2, None]
    assert [record["step"] for record in read_records(tmp_path / "run" / "eval.jsonl")] == [0, 0, 2, 4, 4]


def test_what_a_round_tells(run: Run, folder: Path, tmp_path: Path) -> None:
    """Its metrics, counted by hand."""
    go(folder, tmp_path / "run", "--max_steps", "1", "--keep", "2")
    (record,) = read_records(tmp_path / "run" / "metrics.jsonl")
    text, (sampled,) = character_tokenizer(), run.sampled
    ended = [[not cut for cut in one.truncated] for one in sampled]
    right = [[reward_of(text.decode([t for t in tokens if t >= 12])) for tokens in one.tokens] for one in sampled]
    free = [[r for r, e in zip(*pair, strict=True) if e] for pair in zip(right, ended, strict=True)]
    kept = [sorted(own, reverse=True)[:2] for own in free]
    flat = [r for own in kept for r in own]
    expected = {
        "reward/exact": sum(map(sum, right)) / (B * G),
        "groups/contrast": sum(len(set(own)) > 1 for own in free) / B,
        "groups/failed": sum(max(own) == 0 for own in right) / B,
        "sampler/tokens": sum(len(tokens) for one in sampled for tokens in one.tokens),
        "length/truncated": 1 - sum(map(sum, ended)) / (B * G),
        "selection/size": len(flat),
        "selection/exact": sum(flat) / len(flat),
        "selection/prompts": sum(map(bool, kept)) / B,
        "selection/by_lot": sum(len(k) for k, own in zip(kept, free, strict=True) if len(set(own)) < 2) / len(flat),
        "selection/repeats": 0,
    }
    for name, value in expected.items():
        assert record[name] == pytest.approx(value), name
    assert 0 < expected["groups/contrast"] < 1
    assert 0 < expected["selection/by_lot"] < 1


def test_a_round_trains_from_the_start_with_a_new_optimizer(run: Run, folder: Path, tmp_path: Path) -> None:
    """ReST-EM: samples of the trained policy teach the first one. AdamW without moments moves a weight by lr."""
    go(folder, tmp_path / "run", "--train_from", "start")
    first, second, third = run.steps[0], run.steps[1], run.steps[2]
    for name in first.before:
        assert torch.equal(third.before[name], first.before[name])
    name = next(iter(first.before))
    assert torch.equal(run.weights[1], second.after[name])
    moved = torch.cat([(third.after[n] - third.before[n]).abs().flatten() for n in third.grad])
    learned = torch.cat([third.grad[n].flatten() for n in third.grad]) != 0
    assert moved[learned].median() == pytest.approx(third.lr, rel=0.01)


def test_the_first_round_is_sampled_once(run: Run, folder: Path, tmp_path: Path) -> None:
    """For all selections; another seed, length or temperature samples anew, and so do later rounds."""
    short = ["--max_steps", "1"]
    go(folder, tmp_path / "a", *short)
    go(folder, tmp_path / "b", *short, "--selection", "random_k_overall", "--lr", "0.1")
    assert len(run.sampled) == 1
    for i, other in enumerate((["--seed", "1"], ["--max_new_tokens", "8"], ["--temperature", "0.9"])):
        go(folder, tmp_path / f"other{i}", *short, *other)
        assert len(run.sampled) == i + 2
    go(folder, tmp_path / "c")
    assert len(run.sampled) == 5


def test_a_reward_model_selects(run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest completions here; how many are right is told beside it."""

    class Longest:
        def score(self, conversations) -> list[list[float]]:
            assert all(messages[0] == {"role": "system", "content": "Be brief."} for messages, _ in conversations)
            return [[float(len(answer.tokens)) for answer in answers] for _, answers in conversations]

    monkeypatch.setattr(RewardModel, "of", lambda config: Longest())
    more = ["--max_steps", "1", "--reward_model", "runs/rm", "--system_prompt", "Be brief."]
    go(folder, tmp_path / "run", *more)
    (record,) = read_records(tmp_path / "run" / "metrics.jsonl")
    best = [[len(t) for t, cut in zip(one.tokens, one.truncated, strict=True) if not cut] for one in run.sampled[0]]
    best = [max(own) for own in best if own]
    assert record["selection/reward"] == pytest.approx(sum(best) / len(best))
    assert 0 < record["reward/exact"] < 1


def test_nothing_to_select_is_said(run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the highest reward is 1, min_reward is 2"):
        go(folder, tmp_path / "run", "--min_reward", "2")
    assert not (tmp_path / "run").exists()


def test_the_first_round_must_be_readable(folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"\u2603 {i}?", "answer": str(i)} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["--task", "prompts", "--task_config", f"{{path: {tmp_path / 'rows.jsonl'}, match: number}}"]
    with pytest.raises(UserError, match="the model's tokenizer does not know"):
        go(folder, tmp_path / "run", *asked)


def test_prompts_without_answers_need_a_reward_model(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"say {i}"}) + "\n" for i in range(30)))
    with pytest.raises(UserError, match="selecting without a reward_model needs them"):
        go(folder, tmp_path / "run", "--task", "prompts", "--task_config", json.dumps({"path": str(file)}))


@pytest.mark.parametrize(("keep", "selection"), [(G + 1, "top_per_prompt"), (G * B + 1, "random_k_overall")])
def test_more_than_are_sampled_cannot_be_kept(keep: int, selection: str) -> None:
    with pytest.raises(UserError, match=f"keep {keep}: {keep - 1} completions are sampled"):
        train.read([*SETTINGS, "--keep", str(keep), "--selection", selection])


def test_settings_that_are_left_open() -> None:
    """One completion a prompt, or as many in all; an evaluation after every round."""
    of = {name: train.read([*SETTINGS, "--selection", name]).config for name in ("top_per_prompt", "top_k_overall")}
    assert [config.keep for config in of.values()] == [1, B]
    assert all(config.eval_every == 2 for config in of.values())
    assert train.read([*SETTINGS, "--eval_every", "3"]).config.eval_every == 3


def test_from_python(run: Run, folder: Path, tmp_path: Path) -> None:
    given = dict(zip((it.removeprefix("--") for it in SETTINGS[:2]), SETTINGS[1:2], strict=False))
    result = rejection_sampling.run(
        selection="top_k_overall",
        model=folder,
        **given,
        prompts_per_round=B,
        group_size=G,
        max_new_tokens=LONGEST,
        max_steps=1,
        batch_size=2,
        eval_problems=1,
        output_dir=tmp_path / "run",
    )
    assert result.finished
    assert result.metrics[0]["selection/size"] == B
    config = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert config["algorithm"] == "top_k_overall"
