"""What --resume and --fork may change about the run that they continue."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.config.recorded import read_provenance, trainer_of
from rlhf.errors import UserError

# --resume may change how long the run is, what it saves, what it shows, and which memory it takes: results differ by
# rounding alone, and a run that ran out of memory goes on. Any other setting makes it another run.
MAY_CHANGE = (
    *("max_steps", "save_every", "keep_checkpoints", "save_dtype", "eval_every", "sample_every"),
    *("fsdp", "memory_gb", "sampling_batch", "offload_reference"),
    *("vllm_url", "vllm_folder", "vllm_patience_s"),
    *("wandb_project", "wandb_entity", "wandb_run_name", "wandb_mode", "tensorboard", "trackio"),
)
# --fork may not change these: they decide which weights exist, and the weights come from the checkpoint.
MADE_BY_CHECKPOINT = ("model_name", "scratch", "lora_rank", "lora_alpha", "lora_targets", "extra_layers")


def find_run(path: Path, *, option: str, trainer: str) -> dict[str, Any]:
    """The provenance of the run to continue.

    Raises:
        UserError: there is no run in `path`, or another trainer made it.
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


def differences(run: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both values; None stands for an absent key.

    The run directory (`output_dir`) is not compared: a run may be moved.
    """
    keys = dict.fromkeys([*run, *asked])
    return {k: (run.get(k), asked.get(k)) for k in keys if k != "output_dir" and run.get(k) != asked.get(k)}


def refuse_edited(file: Path, started_with: object, now: Mapping[str, Any]) -> None:
    """Check that config.yaml still holds the settings in provenance.json (early runs recorded none).

    Raises:
        UserError: somebody has edited it.
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
    """Raises: UserError, if there are `lines`. Each names a key that may not change, and both of its values."""
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
