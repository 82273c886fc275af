"""What a continued run may be asked for: its own settings, and anew only what is listed here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.errors import UserError
from rlhf.run.directory import read_provenance

# What --resume may change: how long, what is saved and shown, how often. Every other setting makes another run.
MAY_CHANGE = (
    *("max_steps", "save_every", "keep_checkpoints", "eval_every", "sample_every"),
    *("wandb_project", "wandb_entity", "wandb_run_name", "wandb_mode", "tensorboard"),
)
# What --fork may not change: which weights there are is decided by the checkpoint that it starts from.
MADE_BY_CHECKPOINT = ("model_name", "scratch", "lora_rank", "extra_layers")


def find_run(path: Path, *, option: str, trainer: str) -> dict[str, Any]:
    """The provenance of the run to go on from.

    Raises:
        UserError: there is none, or another trainer made it.
    """
    if not (path / "config.yaml").is_file():
        raise UserError(
            f"--{option}: there is no run in '{path}' to continue",
            hint=f"Leave --{option} out to start it, or name the run with --output_dir.",
        )
    provenance = read_provenance(path)
    made_by = trainer_of(provenance)
    if made_by and trainer and made_by != trainer:
        raise UserError(
            f"--{option}: '{path}' is a run of {made_by}, not of {trainer}",
            hint=f"uv run python -m {made_by} --{option} ... continues it; --model_name {path} starts from its model.",
        )
    return provenance


def trainer_of(provenance: Mapping[str, Any]) -> str:
    """Which command made a run, such as 'reward_models.train_orm'; "" if that is not known."""
    if provenance.get("trainer"):
        return str(provenance["trainer"])
    words = str(provenance.get("command", "")).split()  # early runs tell only how they were called
    after = words[words.index("-m") + 1 :] if "-m" in words else []
    return after[0] if after and after[0].rpartition(".")[2].startswith("train") else ""


def differences(run: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both; None stands for a key that is not there. Where the run is kept and what its
    trackers call it is no setting of the run."""
    keys = dict.fromkeys([*run, *asked])
    return {k: (run.get(k), asked.get(k)) for k in keys if k != "output_dir" and run.get(k) != asked.get(k)}


def refuse_edited(file: Path, started_with: object, now: Mapping[str, Any]) -> None:
    """See that a run's config.yaml says what it was started with, as its provenance.json tells (early ones do not).

    Raises:
        UserError: somebody has edited it since.
    """
    if not isinstance(started_with, Mapping):
        return
    known = {key: value for key, value in now.items() if key in started_with and key not in MAY_CHANGE}
    edited = differences({key: started_with[key] for key in known}, known)
    if edited:
        listed = ", ".join(f"{key} is {new!r}, the run was started with {old!r}" for key, (old, new) in edited.items())
        raise UserError(
            f"--resume: '{file}' was edited: {listed}",
            hint="Put it back; --fork NEW_DIR instead of --resume starts another run from the newest checkpoint.",
        )


def refuse_other_settings(option: str, path: Path, lines: list[str]) -> None:
    """`lines`: key, value of the run and value asked for, of what may not change."""
    if not lines:
        return
    listed = lines[0] if len(lines) == 1 else "\n" + "\n".join(f"  - {line}" for line in lines)
    if option == "resume":
        raise UserError(
            f"--resume continues '{path}' with its own settings: {listed}",
            hint=f"What may change: {', '.join(MAY_CHANGE)}. --fork NEW_DIR instead of --resume starts another run "
            "from its newest checkpoint.",
        )
    raise UserError(
        f"--fork starts from the weights of '{path}': {listed}",
        hint=f"These stay as they are: {', '.join(MADE_BY_CHECKPOINT)}.",
    )
