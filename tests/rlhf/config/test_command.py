"""The configuration layer: precedence, provenance, round trips, and what bad input gets."""

import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Literal, Self

import pytest
from commands import cpu_seconds_below
from pydantic import Field, model_validator

from rlhf.config.command import read_command, show
from rlhf.config.keys import all_keys, topics_of
from rlhf.config.schema import Config, Section
from rlhf.config.yaml_file import to_yaml
from rlhf.errors import UserError


class DataConfig(Section):
    """What to train on."""

    name: str = Field("toy", description="Data set.")
    size: int = Field(100, gt=0, description="Number of rows.")
    words: tuple[int, int] = Field((3, 10), description="Shortest and longest word.")


class LoraConfig(Section):
    """Low-rank adapters."""

    rank: int = Field(16, gt=0, description="Rank.")
    alpha: float = Field(32.0, gt=0, description="Scale.")


class ToyConfig(Config):
    """A toy algorithm."""

    topics: ClassVar[dict[str, str]] = {"lr": "Goals"}

    max_steps: int = Field(10, gt=0, description="Number of optimizer steps.")
    lr: float = Field(1e-4, gt=0, lt=1, description="Learning rate, in 100 % of the peak.")
    bias: float = Field(0.0, description="A number that may be negative.")
    kl: Literal["none", "k1", "k3"] = Field("k3", description="KL estimator.")
    mask: Literal["none", "answer"] | None = Field("answer", description="A type where none and null differ.")
    clip: float | None = Field(0.2, ge=0, description="Clip range; null for none.")
    micro_batch: int | Literal["auto"] = Field("auto", description="Rows at a time.")
    reward_weights: dict[str, float] = Field({"exact": 1.0, "format": 0.2}, description="Weight of each reward.")
    layers: list[str] | None = Field(None, description="Layers to train.")
    data: DataConfig = Field(DataConfig(size=77), description="The training data.")
    lora: LoraConfig | None = Field(None, description="Low-rank adapters; null trains all weights.")

    @model_validator(mode="after")
    def _clip_or_kl(self) -> Self:
        if self.clip is None and self.kl == "none":
            raise ValueError("clip: null needs a kl other than none")
        if self.kl == "none":
            self.refuse_idle("bias", "lora.rank", because="nothing is held", cure="--kl k3, for example.")
        return self


def no_gpu() -> float:
    return 0.0


def read(argv: str = "", *, env=None, cuda_gb=no_gpu, default_config=None):
    return read_command(
        ToyConfig,
        shlex.split(argv),
        prog="python -m toy.train",
        description="Toy.",
        default_config=default_config,
        environ=env or {},
        cuda_gb=cuda_gb,
    )


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write a config file; its name, relative to the working directory, is what messages should show."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "toy.yaml") -> str:
        Path(name).write_text(text)
        return name

    return write


def refused(argv="", **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        read(argv, **kwargs)
    return caught.value.message


# ---------------------------------------------------------------------------------------------- layers


def test_defaults_alone():
    command = read()
    assert command.config == ToyConfig(output_dir="runs/toy.train-seed0")
    assert set(command.origin.values()) == {"default"}
    assert command.profile == "none"
    assert not any([command.resume, command.overwrite, command.plan, command.show_config, command.quiet, command.debug])


def test_precedence_at_every_level_at_once(file):
    """One key, four sources present; taking away the strongest each time uncovers the next."""
    name = file("wandb_project: from-yaml\nlaptop:\n  wandb_project: from-laptop\ngpu:\n  wandb_project: from-gpu\n")
    plain = file("wandb_project: from-yaml\nlaptop:\n  seed: 3\n", "plain.yaml")
    env = {"WANDB_PROJECT": "from-env"}
    seen = [
        read(f"--config {name} --wandb_project from-cli", env=env),
        read(f"--config {name}", env=env),
        read(f"--config {name}"),
        read(f"--config {name} --profile gpu"),
        read(f"--config {plain}"),
        read(""),
    ]
    assert [(c.config.wandb_project, c.origin["wandb_project"]) for c in seen] == [
        ("from-cli", "command line"),
        ("from-env", "environment WANDB_PROJECT"),
        ("from-laptop", "profile laptop (toy.yaml:3)"),
        ("from-gpu", "profile gpu (toy.yaml:5)"),
        ("from-yaml", "plain.yaml:1"),
        (None, "default"),
    ]


def test_nested_keys_merge_one_by_one(file):
    name = file("data:\n  name: words\n  size: 5\nlaptop:\n  data: {size: 6}\n")
    command = read(f"--config {name} --data.words [1,2]")
    assert command.config.data == DataConfig(name="words", size=6, words=(1, 2))
    assert command.origin["data.name"] == "toy.yaml:2"
    assert command.origin["data.size"] == "profile laptop (toy.yaml:5)"
    assert command.origin["data.words"] == "command line"


def test_nested_default_of_the_class_survives_a_sibling():
    """ToyConfig's data has size 77, DataConfig's own default is 100: naming another key must not lose the 77."""
    assert read("--data.name words").config.data.size == 77


def test_dict_valued_setting_is_replaced_whole(file):
    name = file("reward_weights: {exact: 0.5}\n")
    assert read(f"--config {name}").config.reward_weights == {"exact": 0.5}
    command = read(f"--config {name} --reward_weights '{{length: 2}}'")
    assert command.config.reward_weights == {"length": 2.0}
    assert read("""--reward_weights '{"exact": 1}' """).config.reward_weights == {"exact": 1.0}


def test_optional_group_is_switched_on_by_a_key_and_off_by_null(file):
    on, off = file("lora: {rank: 4}\n", "on.yaml"), file("lora: null\n", "off.yaml")
    assert read("--lora.rank 8").config.lora == LoraConfig(rank=8)
    assert read("--lora {}").config.lora == LoraConfig()
    assert read(f"--config {on} --lora.alpha 2").config.lora == LoraConfig(rank=4, alpha=2)
    assert read(f"--config {on} --lora {{}}").config.lora == LoraConfig(rank=4)
    assert read(f"--config {on} --lora null").config.lora is None
    assert read(f"--config {off} --lora.rank 2").config.lora == LoraConfig(rank=2)


def test_environment_names_and_empty_variables():
    env = {"WANDB_ENTITY": "team", "WANDB_RUN_NAME": "first", "WANDB_MODE": "offline", "WANDB_PROJECT": ""}
    config = read(env=env).config
    assert (config.wandb_entity, config.wandb_run_name, config.wandb_mode) == ("team", "first", "offline")
    assert config.wandb_project is None


def test_run_directory_is_named_after_config_and_seed(file):
    name = file("seed: 3\n")
    assert read(f"--config {name}").config.output_dir == "runs/toy-seed3"
    assert read(f"--config {name} --seed 4 --output_dir here").config.output_dir == "here"


def test_default_config_is_used_unless_another_is_given(file):
    first, second = file("seed: 1\n", "first.yaml"), file("seed: 2\n", "second.yaml")
    assert read(default_config=Path(first)).config.seed == 1
    assert read(f"--config {second}", default_config=Path(first)).config.seed == 2


def test_switches():
    command = read("--overwrite --plan --show_config --quiet --debug")
    assert all([command.overwrite, command.plan, command.show_config, command.quiet, command.debug])
    assert read("--plan").resume is False


# ---------------------------------------------------------------------------------------------- profiles

BOTH = "laptop:\n  lr: 0.1\ngpu:\n  lr: 0.2\n"


@pytest.mark.parametrize(
    ("asked", "gb", "profile", "lr", "why"),
    [
        ("auto", 0.0, "laptop", 0.1, "no CUDA device"),
        ("auto", 11.9, "laptop", 0.1, "less than 12"),
        ("auto", 12.0, "gpu", 0.2, "12 GB"),
        ("laptop", 80.0, "laptop", 0.1, "--profile"),
        ("gpu", 0.0, "gpu", 0.2, "--profile"),
    ],
)
def test_profile_choice(file, asked, gb, profile, lr, why):
    command = read(f"--config {file(BOTH)} --profile {asked}", cuda_gb=lambda: gb)
    assert (command.profile, command.config.lr) == (profile, lr)
    assert why in command.profile_reason


def test_device_is_not_asked_when_it_cannot_matter(file):
    def never() -> float:
        raise AssertionError("asked for the device")

    read(f"--config {file(BOTH)} --profile laptop", cuda_gb=never)
    read(f"--config {file('lr: 0.1', 'flat.yaml')}", cuda_gb=never)


def test_empty_and_missing_blocks(file):
    name = file("lr: 0.3\nlaptop:\n")
    assert read(f"--config {name}").profile == "laptop"
    assert read(f"--config {name} --profile gpu").config.lr == 0.3


def test_both_blocks_are_checked_for_unknown_keys(file):
    name = file("laptop:\n  lr: 0.1\ngpu:\n  data:\n    sise: 3\n")
    message = refused(f"--config {name} --profile laptop")
    assert "profile gpu (toy.yaml:5)" in message
    assert "did you mean 'data.size'?" in message


def test_block_that_is_no_mapping(file):
    assert "toy.yaml:2: gpu is 3" in refused(f"--config {file('lr: 0.1' + chr(10) + 'gpu: 3')}")


# ---------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize(
    "name", ["5e-6", "1_000", "no", "null", "2026-01-01", "0o17", "1:30", "010", "", "a: b # c", "é\n\tx", "{a}", "~"]
)
def test_text_round_trips_however_it_looks(file, name):
    config = ToyConfig(wandb_run_name=name, output_dir="out")
    assert read(f"--config {file(to_yaml(config))}").config == config


@pytest.mark.parametrize("lr", [5e-6, 1e-05, 0.1 + 0.2, 1 / 3, 1e-300, 0.9999999999999999])
def test_floats_round_trip_exactly(file, lr):
    config = read(f"--lr {lr!r}").config
    again = read(f"--config {file(to_yaml(config))}").config
    assert again == config
    assert math.copysign(again.lr, lr) == lr


def test_whole_config_round_trips_and_reruns_as_it_is(file):
    """A resolved config has no profile blocks: the machine it is rerun on changes nothing."""
    name = file("clip: null\nlora: {}\nlaptop: {data: {size: 3}}\ngpu: {data: {size: 9}}\n")
    first = read(f"--config {name} --micro_batch 8 --layers [q,v]").config
    saved = file(to_yaml(first), "config.yaml")
    again = read(f"--config {saved} --profile gpu", cuda_gb=lambda: 80.0)
    assert again.config == first
    assert again.config.data.size == 3
    assert again.profile == "none"


def test_show_is_a_config_that_names_every_origin(file):
    command = read(f"--config {file('lr: 5e-6')} --lora.rank 2 --seed 9", env={"WANDB_MODE": "offline"})
    shown = show(command)
    assert read(f"--config {file(shown, 'shown.yaml')}").config == command.config
    settings = [line for line in shown.splitlines() if line and not line.startswith("# ")]
    origins = {line.split(":")[0]: line.split("  # ")[1] for line in settings}
    assert origins.keys() == command.origin.keys()
    assert origins["lr"] == "toy.yaml:1"
    assert origins["wandb_mode"] == "environment WANDB_MODE"
    assert origins["lora.rank"] == "command line"
    assert origins["lora.alpha"] == "default"


# ---------------------------------------------------------------------------------------------- values as text


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        ("--lr 5e-6", "lr", 5e-6),
        ("--bias -1e-3", "bias", -1e-3),
        ("--bias=-2", "bias", -2.0),
        ("--clip none", "clip", None),
        ("--clip None", "clip", None),
        ("--clip null", "clip", None),
        ("--mask none", "mask", "none"),
        ("--mask null", "mask", None),
        ("--kl none", "kl", "none"),
        ("--wandb_project null", "wandb_project", None),
        ("--wandb_project 5", "wandb_project", "5"),
        ("--model_name true", "model_name", "true"),
        ("--micro_batch 8", "micro_batch", 8),
        ("--micro_batch auto", "micro_batch", "auto"),
        ("--layers [q,v]", "layers", ["q", "v"]),
        ("--tensorboard", "tensorboard", True),
        ("--tensorboard --seed 2", "tensorboard", True),
        ("--tensorboard true", "tensorboard", True),
        ("--tensorboard false", "tensorboard", False),
    ],
)
def test_command_line_values(argv, key, value):
    found = getattr(read(argv).config, key)
    assert found == value
    assert type(found) is type(value)


def test_yaml_floats_without_a_dot_are_numbers(file):
    assert read(f"--config {file('lr: 5e-6')}").config.lr == 5e-6


# ---------------------------------------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lr: fast", ['lr is "fast"', "a number > 0 and < 1"]),
        ("lr: 2", ["lr is 2", "a number > 0 and < 1"]),
        ("lr: .nan", ["lr is", "a number"]),
        ("lr: inf", ["lr is", "a number"]),
        ("lr: true", ["lr is true", "a number"]),
        ("seed: true", ["seed is true", "a number"]),
        ("seed: 1.5", ["seed is 1.5", "a whole number >= 0"]),
        ("seed: -1", ["seed is -1", "a whole number >= 0"]),
        ("clip: true", ["clip is true", "number"]),
        ("clip: wide", ['clip is "wide"', "a number >= 0 or null"]),
        ("bias: 1e999", ["bias is Infinity", "a number"]),
        ("kl: k2", ['kl is "k2"', "one of none, k1, k3"]),
        ("micro_batch: big", ['micro_batch is "big"', "a whole number or one of auto"]),
        ("reward_weights: {exact: high}", ['reward_weights.exact is "high"', "number"]),
        ("reward_weights: {exact: true}", ["true", "a number"]),
        ("reward_weights: 3", ["reward_weights is 3", "a mapping"]),
        ("data: 5", ["data is 5", "a mapping with name, size, words"]),
        ("data: {size: 0}", ["data.size is 0", "a whole number > 0"]),
        ("data: {words: [1, true]}", ["data.words", "a number"]),
        ("model_name: 5", ["model_name is 5", "text"]),
        ("model_name:", ["model_name is null", "text"]),
        ("tensorboard: maybe", ['tensorboard is "maybe"', "true or false"]),
    ],
)
def test_bad_value_in_the_file(file, line, words):
    message = refused(f"--config {file('# a comment' + chr(10) + line)}")
    assert message.startswith("toy.yaml:2: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_bad_values_are_all_listed_with_their_origins(file):
    name = file("lr: fast\nlaptop:\n  clip: -1\n")
    message = refused(f"--config {name} --seed x", env={"WANDB_MODE": "of"})
    for place in ('toy.yaml:1: lr is "fast"', "profile laptop (toy.yaml:3): clip is -1", 'command line: seed is "x"'):
        assert place in message
    assert 'environment WANDB_MODE: wandb_mode is "of"; accepted: one of online, offline, disabled' in message
    assert message.startswith("4 settings are not valid")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "true", "", "1e999", "null"])
def test_bad_numbers_on_the_command_line(text):
    assert refused(f"--bias={text}").startswith("command line: bias is ")


def test_broken_yaml_on_the_command_line():
    message = refused("--reward_weights '{exact: 1'")
    assert "--reward_weights" in message
    assert "a mapping" in message


def test_validator_of_a_subclass_speaks_for_itself():
    assert refused("--clip null --kl none") == "clip: null needs a kl other than none"


@pytest.mark.parametrize("key", ["bias", "lora.rank"])
def test_a_setting_that_acts_on_nothing_is_refused_with_the_cure(key: str) -> None:
    """Where it has its default it is not given, and a group that is off has no settings."""
    assert read("--kl none").config.bias == 0
    assert read("--kl none --lora.alpha 3").config.lora is not None
    with pytest.raises(UserError) as caught:
        read(f"--kl none --{key} 3")
    assert caught.value.message == f"{key}: it would act on nothing: nothing is held"
    assert caught.value.hint == "--kl k3, for example."


def test_required_key_without_a_value():
    with pytest.raises(UserError, match="max_steps is not set; accepted: a whole number > 0"):
        read_command(Config, [], prog="x", description="", environ={})


def test_config_built_in_code_is_as_strict():
    for bad in ({"lr": True}, {"lr": math.nan}, {"nonsense": 1}):
        with pytest.raises(ValueError, match="1 validation error"):
            ToyConfig.model_validate(bad)
    with pytest.raises(ValueError, match="frozen"):
        ToyConfig().lr = 0.5  # ty: ignore[invalid-assignment]


# ---------------------------------------------------------------------------------------------- bad names, bad files


def test_unknown_keys_are_listed_with_line_and_nearest_name(file):
    message = refused(f"--config {file('learning_rat: 1' + chr(10) + 'max_step: 3' + chr(10) + 'gpuu: {}')}")
    assert "toy.yaml:2: unknown key max_step; did you mean 'max_steps'?" in message
    assert "toy.yaml:3: unknown key gpuu; did you mean 'gpu'?" in message
    assert "toy.yaml:1: unknown key learning_rat" in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--max-steps 3", "unknown option --max-steps; did you mean '--max_steps'?"),
        ("--data.sise=3", "unknown option --data.sise; did you mean '--data.size'?"),
        ("--quite", "unknown option --quite; did you mean '--quiet'?"),
        ("--max_st 3", "unknown option --max_st"),
        ("--lora '{rnk: 3}'", "lora.rnk"),
        ("--lora '{rank: 3}' --lora.rank 4", "lora.rank is given twice"),
        ("--lr", "--lr"),
        ("--profile gpuu", "'gpuu'"),
        ("grpo", "'grpo'"),
        ("--bias=1 -2", "unexpected '-2'"),
        ("--clip ''", 'clip is ""'),
    ],
)
def test_bad_command_lines(argv, words):
    message = refused(argv)
    assert words in message
    assert message.startswith("command line: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "toy.yaml is empty"),
        ("# only a comment\n", "toy.yaml is empty"),
        ("- lr: 1\n", "toy.yaml holds a sequence"),
        ("just words\n", "toy.yaml holds a scalar"),
        ("seed: 1\nlr: [1\n", "toy.yaml:3: "),
        ("seed: 1\nlr: a: b\n", "toy.yaml:2: "),
        ("seed: 1\n\tlr: 2\n", "toy.yaml:2: "),
        ("seed: 1\nlr: 0.1\nseed: 2\n", "toy.yaml:3: seed is given twice"),
        ("data:\n  size: 1\n  size: 2\n", "toy.yaml:3: size is given twice"),
        ("data:\n  size: 1\ndata.size: 2\n", "data.size is given twice"),
        ("gpu:\n  lr: 1\n  lr: 2\n", "toy.yaml:3: lr is given twice"),
        ("[a]: 1\n", "toy.yaml:1: a key must be a word"),
        ("true: 1\n", "toy.yaml:1: unknown key true"),
        ("seed: 1\n---\nseed: 2\n", "toy.yaml:2: "),
        ("lr: !!int fast\n", "toy.yaml: not valid YAML"),
        ("lr: !!python/object:os.system {}\n", "toy.yaml:1: "),
        ("a: &a {b: *a}\n", "toy.yaml:1: "),
    ],
)
def test_bad_files(file, text, words):
    message = refused(f"--config {file(text)}")
    assert words in message
    assert "\n" not in message


def test_binary_file(file, tmp_path):
    (tmp_path / "toy.yaml").write_bytes(b"\xff\xfe\x00\xd8\x81")
    assert refused("--config toy.yaml").startswith("toy.yaml")


def test_missing_file_names_the_nearest(file):
    file("seed: 1", "grpo.yaml")
    file("seed: 1", "ppo.yaml")
    with pytest.raises(UserError, match=r"there is no config file grpoo\.yaml") as caught:
        read("--config grpoo.yaml")
    assert caught.value.hint == "did you mean 'grpo.yaml'?"
    assert "folder nowhere does not exist" in refused("--config nowhere/grpo.yaml")
    assert ". is a folder" in refused("--config .")


def test_configs_that_come_with_a_command_are_found_by_name(file, tmp_path):
    """By name, whatever the folder; a path is a path; and a setting may name one."""
    shipped = tmp_path / "package" / "configs"
    shipped.mkdir(parents=True)
    for name in ("grpo", "rloo"):
        (shipped / f"{name}.yaml").write_text(f"wandb_run_name: {name}\n")
    file("wandb_run_name: mine", "mine.yaml")
    default = shipped / "grpo.yaml"

    def found(*argv: str, named_by: str = "") -> str | None:
        given = {"prog": "toy", "description": "", "environ": {}, "default_config": default, "named_by": named_by}
        return read_command(ToyConfig, list(argv), **given).config.wandb_run_name

    assert found("--config", "rloo") == found("--config", "rloo.yaml") == "rloo"
    assert found("--config", "mine.yaml") == "mine"
    assert found("--wandb_entity", "rloo", named_by="wandb_entity") == "rloo"
    assert found("--wandb_entity", "nobody", named_by="wandb_entity") == found() == "grpo"
    assert found("--wandb_entity", "rloo", "--config", "mine.yaml", named_by="wandb_entity") == "mine"
    with pytest.raises(UserError, match="there is no config file rlooo") as caught:
        found("--config", "rlooo")
    assert caught.value.hint == "did you mean 'rloo'?"
    with pytest.raises(UserError, match="the folder nowhere does not exist") as caught:
        found("--config", "nowhere/rloo.yaml")
    assert "--config rloo" in str(caught.value.hint)


# ---------------------------------------------------------------------------------------------- --help


def help_text(capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_explains_every_key_with_its_default_and_bounds(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    text = help_text(capsys)
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  --")}
    nested = {f"data.{n}": f for n, f in DataConfig.model_fields.items()}
    nested |= {f"lora.{n}": f for n, f in LoraConfig.model_fields.items()}
    for name, field in (ToyConfig.model_fields | nested).items():
        if name != "data":
            assert field.description is not None
            assert field.description in rows[f"--{name}"]
    assert "[a number > 0 and < 1; default: 0.0001]" in rows["--lr"]
    assert "[a number >= 0 or null; default: 0.2]" in rows["--clip"]
    assert "default: null" in rows["--wandb_project"]
    assert "default: 77" in rows["--data.size"]  # ToyConfig's, not DataConfig's own
    assert "default: 16" in rows["--lora.rank"]
    assert {"--config", "--profile", "--resume", "--plan", "--quiet", "--debug", "--show_config"} <= rows.keys()
    assert "--data" not in rows


TOPICS = [
    "Most used",
    "Goals",
    "data: The training data",
    "lora: Low-rank adapters; null trains all weights",
    "Trackers",
]


def test_help_and_show_config_go_from_the_common_to_the_rest_by_topic(capsys):
    """A key that begins a topic is under its heading even if it is one of the common ones, which come first."""
    text, shown = help_text(capsys), show(read())
    for places in ([text.index(f"{title}:") for title in TOPICS], [shown.index(f"# {title}\n") for title in TOPICS]):
        assert places == sorted(places)
    assert text.index("--max_steps ") < text.index("Goals:") < text.index("--kl ")
    assert shown.index("\nseed:") < shown.index("# Goals") < shown.index("\nclip:")


def test_topics_hold_every_option_once():
    names = [name for titles in topics_of(ToyConfig).values() for name in titles]
    assert sorted(names) == sorted(name for name, key in all_keys(ToyConfig).items() if key.is_option)


def test_help_shows_what_would_run_here(file, capsys, monkeypatch):
    """Beside the default of the code: the value with its origin, filled in where it is null."""
    monkeypatch.setenv("COLUMNS", "400")
    name = file("lr: 0.5\nlaptop:\n  clip: null\ngpu:\n  clip: 0.1\n")

    def shown(*argv: str) -> dict[str, str]:
        with pytest.raises(SystemExit) as caught:
            read_command(
                ToyConfig,
                ["--help", *argv],
                prog="toy",
                description="",
                environ={},
                cuda_gb=no_gpu,
                fill=lambda config: config.model_copy(update={"layers": ["q"]}),
            )
        assert caught.value.code == 0
        text = capsys.readouterr().out
        return {line.split()[0]: line for line in text.splitlines() if line.startswith("  --")} | {"": text}

    here = shown("--config", name, "--bias", "-1")
    assert "would run here: profile laptop" in here[""]
    assert "default: 0.0001; here: 0.5, toy.yaml:1]" in here["--lr"]
    assert "default: 0.2; here: null, profile laptop (toy.yaml:3)]" in here["--clip"]
    assert "default: 0.0; here: -1.0, command line]" in here["--bias"]
    assert 'default: null; here: ["q"], published value]' in here["--layers"]
    assert "here" not in here["--kl"]
    assert "here: 0.1, profile gpu" in shown("--config", name, "--profile", "gpu")["--clip"]
    refused = shown("--lr", "fast")
    assert 'this command is refused: command line: lr is "fast"' in refused[""]
    assert "here" not in refused["--lr"]


PROGRAM = """
import sys
from pydantic import Field
from rlhf.config.command import read_command
from rlhf.config.schema import Config
from rlhf.errors import run_main

class Toy(Config):
    max_steps: int = Field(5, gt=0, description="Steps.")

def main():
    print(read_command(Toy, sys.argv[1:], prog="toy", description="Toy.").config.max_steps)

code = run_main(main, debug=False)
assert "torch" not in sys.modules and "transformers" not in sys.modules
sys.exit(code)
"""


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *argv], capture_output=True, text=True, check=False)


def test_help_is_quick():
    with cpu_seconds_below(2):  # asked for: 1 s; the bound leaves room for a slow processor
        done = _run("--help")
    assert done.returncode == 0
    assert "--max_steps VALUE" in done.stdout


def test_process_without_torch_and_exit_codes():
    good, bad = _run("--max_steps", "7"), _run("--max_steps", "0")
    assert (good.returncode, good.stdout) == (0, "7\n")
    assert bad.returncode == 2
    assert bad.stderr == "error: command line: max_steps is 0; accepted: a whole number > 0\n"


# ------------------------------------------------------------------------------------------- values from outside


class Named(Config):
    """Names"""

    max_steps: int = Field(1, gt=0, description="Steps.")
    model: str | list[str] | None = Field(None, description="One or several.")


def named(*argv: str) -> Named:
    return read_command(Named, list(argv), prog="p", description="d", environ={}, cuda_gb=lambda: 0.0).config


def test_a_list_where_a_name_or_a_list_is_accepted_is_a_list() -> None:
    assert named("--model", "[a/b, c]").model == ["a/b", "c"]
    assert named("--model", "['x']").model == ["x"]
    assert named("--model", "runs/a").model == "runs/a"
    assert named("--model", "[not a list").model == "[not a list", "a name may begin with a bracket"
    assert named("--output_dir", "[a, b]").output_dir == "[a, b]", "where only text is accepted it is text"


def test_a_seed_is_one_that_numpy_takes() -> None:
    assert named("--seed", str(2**32 - 1)).seed == 2**32 - 1
    with pytest.raises(UserError, match="seed is 4294967296; accepted: a whole number >= 0 and <= 4294967295"):
        named("--seed", str(2**32))


BOMB = "a: &a [x]\n" + "".join(
    f"{n}: &{n} [{', '.join(9 * ['*' + m])}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task_config: " + "{a: " * 5000 + "1" + "}" * 5000, "nested more than 32 levels deep"),
        ("task_config: " + "{a: " * 60 + "1" + "}" * 60, "nested more than 32 levels deep"),
        ("task_config: " + "[" * 60 + "]" * 60, "nested more than 32 levels deep"),
        ("a: &a [*a]", "nested more than 32 levels deep"),
        (BOMB, "more than 10000 values"),
    ],
    ids=["deep", "rather deep", "lists", "itself", "aliases"],
)
def test_yaml_that_is_too_deep_or_too_large_is_refused_at_once(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        named("--config", str(file))


def test_aliases_are_followed_where_they_are_few(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: &names [a, b]\nmax_steps: 3\n")
    assert named("--config", str(file)).model == ["a", "b"]
    file.write_text("output_dir: &name runs/a\nmodel: [*name, *name]\n")
    assert named("--config", str(file)).model == ["runs/a", "runs/a"]


@pytest.mark.parametrize("name", ["x" * 256, "runs/" + "ä" * 128, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="output_dir"):
        named("--output_dir", name)
    assert named("--output_dir", "x" * 255).output_dir == "x" * 255


@pytest.mark.parametrize("text", ["seed: !!int ''", "lr: !!float ''", "tensorboard: !!bool maybe", "lr: !!int fast"])
def test_tags_that_lie_are_not_valid_yaml(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml"):
        read_command(ToyConfig, ["--config", str(file)], prog="", description="", environ={})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"max_steps: {10**400}", "at most 2"),
        (f"data: {{words: [1, {2**53 + 1}]}}", "at most 2"),
        ('wandb_run_name: "\\ud83d"', "half a character"),
        ('output_dir: "a\\0b"', "null character"),
        ('layers: ["\\0"]', "null character"),
    ],
)
def test_what_no_file_and_no_float_holds_is_refused(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(line)
    with pytest.raises(UserError, match=words):
        read_command(ToyConfig, ["--config", str(file)], prog="", description="", environ={})


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/self/mem", "x" * 300, "a\0b", ""])
def test_a_config_file_that_cannot_be_read_or_never_ends_is_said(name: str) -> None:
    with pytest.raises(UserError):
        read_command(ToyConfig, ["--config", name], prog="", description="", environ={})


@pytest.mark.parametrize("text", ["-inf", "-.inf", "-nan"])
def test_minus_infinity_is_a_value_and_no_option(text: str) -> None:
    with pytest.raises(UserError, match="accepted: a number > 0"):
        read_command(ToyConfig, ["--lr", text], prog="", description="", environ={})
