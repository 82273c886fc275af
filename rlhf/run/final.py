"""What a finished run leaves to be used: `final/` in Hugging Face format with its model card, and LoRA's `adapter/`.

Both are written beside their place and renamed into it, `final/` last: where it is, the run is finished.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.models.architecture import HEADS
from rlhf.models.frozen import forget_storage
from rlhf.models.heads import SEQUENCE, TOKEN
from rlhf.models.lora import merge_lora, save_adapter
from rlhf.models.saving import cast_for_saving
from rlhf.run.checkpoints import not_written
from rlhf.run.model_card import model_card
from rlhf.text.end_tokens import tell_end_tokens

FINAL, ADAPTER = "final", "adapter"
PEFT_TASKS = {SEQUENCE: "SEQ_CLS", TOKEN: "TOKEN_CLS"}  # of the endings of transformers' classes; else CAUSAL_LM


def write_final(
    run: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype,
    lora: bool,
    base: str | None = None,
) -> Path:
    """Write `run/final`, and `run/adapter` where there is one to save; the model is merged and rounded in place.

    Args:
        dtype: the precision of the saved weights; heads of reward models stay fp32.
        lora: whether adapters were trained, which are merged.
        base: the model that the adapters belong to, as from_pretrained takes it; None: they are not saved on their own.

    Raises:
        UserError: they could not be written, for lack of space say. What is there of an earlier ending stays.
    """
    if lora:
        if base is not None:
            _write(run / ADAPTER, partial(_save_adapter, model, base=base))
        merge_lora(model)
    forget_storage(model)
    cast_for_saving(model, dtype, spared=HEADS)
    tell_end_tokens(model, tokenizer)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(model_card(run, architecture=type(model).__name__), encoding="utf-8")

    return _write(run / FINAL, save)


def remove_partial(run: Path) -> None:
    """What a process left that was killed while it wrote the end."""
    for name in (ADAPTER, FINAL):
        shutil.rmtree(run / f".partial_{name}", ignore_errors=True)


def _save_adapter(model: PreTrainedModel, folder: Path, *, base: str) -> None:
    kind = type(model).__name__
    task = next((PEFT_TASKS[ending] for ending in PEFT_TASKS if kind.endswith(ending)), "CAUSAL_LM")
    save_adapter(model, folder, base=base, task=task, heads=HEADS if task != "CAUSAL_LM" else ())


def _write(place: Path, save: Callable[[Path], None]) -> Path:
    unfinished = place.with_name(f".partial_{place.name}")
    try:
        save(unfinished)
    except Exception as error:
        raise not_written(f"'{place}'", unfinished, error) from error
    if place.exists():
        shutil.rmtree(place)
    return unfinished.rename(place)
