"""What a loss's settings are, wherever they are asked for; and what bad input gets."""

from pathlib import Path

import pytest
from alignment_commands import SMALL, Commands, labelled, pairs, write_rows

from direct_alignment.config import CONFIGS, LOSS_NAMES, read
from direct_alignment.defaults import resolve
from direct_alignment.loss import Loss
from direct_alignment.losses import losses
from direct_alignment.published import Published, published
from direct_alignment.train import train
from rlhf.errors import UserError
from rlhf.run.sweep import Planned


def settings(*arguments: str | Path) -> tuple[dict[str, float], list[str]]:
    command = read(["--profile", "laptop", *map(str, arguments)])
    _, _, found = resolve(command.config)
    return found, [*command.notes]


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_a_loss_alone_has_its_published_settings(loss: str) -> None:
    assert settings("--loss", loss) == (losses[loss].settings, [])


def test_what_is_published_is_read_from_the_file() -> None:
    """Without importing it: as Python makes it of the losses, their needs and their variants."""

    def by_import(loss: Loss) -> Published:
        variants = {name: by_import(variant) for name, variant in loss.variants.items()}
        return Published(loss.settings, frozenset(loss.needs), variants)

    assert published() == {name: by_import(loss) for name, loss in losses.items()}


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("file", ["simpo.yaml", "kto.yaml"])
def test_another_loss_s_file_gives_none_of_its_settings(loss: str, file: str) -> None:
    found, said = settings("--loss", loss, "--config", CONFIGS / file)
    assert found == losses[loss].settings
    assert bool(said) == (f"{loss}.yaml" != file)


def test_what_is_left_out_is_said() -> None:
    _, said = settings("--loss=dpo", "--config", CONFIGS / "simpo.yaml")
    assert len(said) == 2
    assert said[0].startswith("beta 2.0 (")
    assert said[0].endswith("is not dpo's: left out")
    assert "simpo.yaml:3" in said[0]


def test_what_is_said_on_the_command_line_wins() -> None:
    assert settings("--loss", "dpo", "--config", CONFIGS / "simpo.yaml", "--beta", "0.3")[0] == {"beta": 0.3}
    assert settings("--config", CONFIGS / "simpo.yaml", "--beta", "0.3")[0]["beta"] == 0.3
    assert settings("--loss", "dpo", "--beta", "0.3")[0] == {"beta": 0.3}


def test_a_file_s_own_settings_stay(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("loss: dpo\nbeta: 0.7\nreference: initial\ntask: step_arithmetic\n")
    assert settings("--config", file)[0] == {"beta": 0.7}
    assert settings("--loss", "dpo", "--config", file)[0] == {"beta": 0.7}
    found, said = settings("--loss", "cdpo", "--config", file)
    assert found == {"beta": 0.1, "label_smoothing": 0.1}
    assert len(said) == 2


def test_a_loss_has_its_own_run_directory() -> None:
    assert read(["--loss", "hinge"]).config.output_dir == "runs/hinge-seed0"
    assert read(["--loss", "ipo", "--seed", "3"]).config.output_dir == "runs/ipo-seed3"


def test_ipo_sum_is_another_function() -> None:
    """On sums, and scored by sums."""
    command = read(["--loss", "ipo", "--ipo_sum", "--profile", "laptop"])
    _, loss, found = resolve(command.config)
    assert (loss.takes, loss.score, found) == (["s_w", "s_l"], "s", {"beta": 0.1})
    command = read(["--loss", "ipo", "--ipo_sum", "false", "--profile", "laptop"])
    assert resolve(command.config)[1] is losses["ipo"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--loss", "dppo"], "there is no 'dppo': did you mean 'dpo'?"),
        (["--loss", "orpo", "--beta", "1"], "beta: orpo does not have it"),
        (["--loss", "dpo", "--reference", "none"], "reference: dpo needs one"),
        (["--loss", "dpo", "--ipo_sum"], "ipo_sum: dpo does not have it"),
        (["--sync_reference_every", "5", "--lora_rank", "4"], "it stays"),
        (["--loss", "simpo", "--reference", "none", "--sync_reference_every", "5"], "no reference to move"),
        (["--loss", "orpo", "--sync_reference_every", "5"], "compares with no reference"),
        (["--task", "none"], "data.path on_policy needs a task"),
        (["--label_smoothing", "0.6", "--loss", "cdpo"], "label_smoothing is 0.6"),
        (["--truncation", "keep_both"], "accepted: one of keep_end, keep_start"),
    ],
)
def test_contradictions_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        settings(*arguments)
    assert words in f"{error.value.message} {error.value.hint}"


def test_bad_data_stops_before_a_model_is_loaded(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, the row, and nothing left behind."""
    monkeypatch.setattr("rlhf.run.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    same = {"prompt": "p", "chosen": "x", "rejected": "x"}
    cases = {
        "wanted chosen and rejected": [{"question": "q", "answer": "a"}] * 30,
        "identical": [*pairs(20), *[same] * 5],
        "wanted text": [*pairs(20), *[{**pairs(1)[0], "chosen": 5}] * 3],
        "line 2 is not JSON": None,
        "no file": None,
        "fits at least 95 %": pairs(30),
        "only one prompt": [{**pair, "prompt": "p"} for pair in pairs(30)],
        "wanted true or false": [{**row, "label": "perhaps"} for row in labelled(30)],
    }
    for words, rows in cases.items():
        file = tmp_path / "bad.jsonl"
        extra = ["--max_length", "3"] if "fits" in words else []
        extra += ["--loss", "kto"] if "prompt" in words or "true" in words else []
        if words == "no file":
            file = tmp_path / "missing.jsonl"
        elif rows is None:
            file.write_text("{}\n{broken\n")
        else:
            write_rows(file, rows)
        run = tmp_path / "run"
        outcome = commands.train(*SMALL, "--task", "none", "--data.path", file, *extra, "--output_dir", run)
        assert outcome.code == 2, (words, outcome)
        if words != "only one prompt":  # whose split by question finds nothing to keep apart before that
            assert words in outcome.err
        assert "Traceback" not in outcome.err
        assert not run.exists()


def test_pairs_are_wanted_where_a_loss_needs_them(commands: Commands, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "labels.jsonl", labelled(30))
    outcome = commands.train(*SMALL, "--loss", "dpo", "--data.path", file, "--output_dir", tmp_path / "run")
    assert outcome.code == 2
    assert "wanted chosen and rejected" in outcome.err


def test_help_and_plan(commands: Commands, tmp_path: Path) -> None:
    outcome = commands.train("--help")
    assert outcome.code == 0
    for key in ("--sync_reference_every", "--gamma_beta_ratio", "--max_samples", "--data.path"):
        assert key in outcome.out
    outcome = commands.train(*SMALL, "--plan", "--output_dir", tmp_path / "run")
    assert outcome.code == 0
    assert "dpo (beta 0.1)" in outcome.out
    assert "reference model" in outcome.out
    assert not (tmp_path / "run").exists()


def test_sampled_pairs_are_a_data_set(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    few = ["--problems", "30", "--candidates", "4", "--max_new_tokens", "40", "--system_prompt", "Be right."]
    outcome = commands.sample_pairs("--output", file, *few)
    assert outcome.code == 0, outcome.err
    assert "pairs of 30 problems" in outcome.out
    outcome = commands.sample_pairs("--output", file, *few)
    assert outcome.code == 2
    assert "exists already" in outcome.err
    run = tmp_path / "run"
    outcome = commands.train(*SMALL, "--data.path", file, "--max_steps", "1", "--output_dir", run)
    assert outcome.code == 0, outcome.err


def test_pairs_by_a_reward_model(commands: Commands, tmp_path: Path) -> None:
    """A classifier of random weights: whatever it prefers, the margin is positive and the pair its best and worst."""
    import json

    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from rlhf.models.policy import find_model, load_tokenizer

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(find_model("embedded").path, num_labels=1)
    folder = tmp_path / "rm"
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    load_tokenizer("embedded").save_pretrained(folder)
    file = tmp_path / "pairs.jsonl"
    few = ["--problems", "5", "--candidates", "4", "--max_new_tokens", "20", "--reward_model", str(folder)]
    outcome = commands.sample_pairs("--output", file, *few)
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in file.open()]
    assert rows
    assert all(row["margin"] > 0 for row in rows)


def test_comparison_runs_each_loss_once(
    commands: Commands, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two losses; a second call finds both done. In this process, since loading torch anew takes seconds."""
    calls = []

    def make(planned: list[Planned], **_: object) -> None:
        for run in planned:
            if not run.done:
                calls.append(run.command)
                outcome = commands.train(*run.command[2:])
                assert outcome.code == 0, outcome.err

    monkeypatch.setattr("rlhf.run.compare.make_all", make)
    small = [*SMALL, "--max_steps", "1", "--data.path", data, "--task", "none"]
    folder = tmp_path / "compared"
    for _ in range(2):
        outcome = commands.compare("--losses", "dpo,orpo", "--seeds", "1", "--folder", folder, *small)
        assert outcome.code == 0, outcome.err
    assert [call[1:4] for call in calls] == [["direct_alignment.train", "--loss", name] for name in ("dpo", "orpo")]
    text = (folder / "comparison.md").read_text()
    assert "Held-out reward_accuracy on held-out pairs" in text
    assert "| orpo |" in text
    assert (folder / "comparison.html").exists()
    assert (folder / "displacement.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--losses", "dppo"], "did you mean 'dpo'?"),
        (["--seeds", "0"], "at least 1"),
        (["--losses", "dpo", "--betta", "1"], "unknown option --betta"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused_before_any_run(
    commands: Commands, arguments: list[str], words: str
) -> None:
    outcome = commands.compare(*arguments)
    assert outcome.code == 2
    assert words in outcome.err


def test_pairs_of_a_file_do_not_evaluate_the_task_of_the_config() -> None:
    """The laptop's task is for pairs of the model's own. One that is named is evaluated."""
    own = read(["--profile", "laptop", "--data.path", "mine.jsonl", "--loss", "kto"])
    assert own.config.task is None
    (note,) = own.notes
    assert note.startswith('the task "step_arithmetic" (')
    assert "--task NAME evaluates one" in note
    asked = ["--profile", "laptop", "--data.path", "mine.jsonl", "--task", "spell_backward"]
    assert read(asked).config.task == "spell_backward"
    for unchanged in ([], ["--data.path", "on_policy"], ["--data.problems", "9"]):
        assert read(["--profile", "laptop", *unchanged]).config.task == "step_arithmetic"
        assert read(["--profile", "laptop", *unchanged]).notes == ()


def test_a_task_in_a_file_of_ones_own_is_evaluated(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("data: {path: mine.jsonl}\ntask: spell_backward\n")
    assert read(["--config", str(config)]).config.task == "spell_backward"
    assert read(["--config", str(config), "--data.path", "other.jsonl"]).config.task == "spell_backward"


def test_a_task_without_answers_pairs_nothing(tmp_path: Path) -> None:
    """Before anything is loaded: its verifier would have to tell right completions from wrong ones."""
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f'{{"prompt": "{i}?"}}\n' for i in range(9)))
    command = read(["--profile", "laptop", "--task", "prompts", "--task_config", f"{{path: {file}}}"])
    with pytest.raises(UserError, match="prompts has no reference answers to tell right from wrong"):
        train(command)
