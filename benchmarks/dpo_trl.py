"""TRL's side of the race of DPO epochs."""

import os
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory

from benchmarks.dpo_work import BETA, LR, MAX_GRAD_NORM, Options, Step, make_groups, tokens_of
from benchmarks.race import Clock, forget_peak_memory, load_for_trl


def settings(options: Options, folder: str):
    """TRL's configuration of the same work."""
    from trl import DPOConfig

    return DPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=options.precision == "bf16",
        seed=options.seed,
        max_steps=1 + options.timed,
        max_length=None,
        # the same mathematics
        beta=BETA,
        loss_type=["sigmoid"],
        precompute_ref_log_probs=options.trl_reference == "precompute",
        learning_rate=LR,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        optim="adamw_torch_fused",
        train_sampling_strategy="sequential",
        # for speed
        per_device_train_batch_size=options.trl_micro_batch,
        gradient_accumulation_steps=options.batch // options.trl_micro_batch,
        gradient_checkpointing=options.trl_checkpointing == "on",
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )


def run_trl(turn: Connection, options: Options) -> None:
    from unittest.mock import patch

    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOTrainer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    model, tokenizer = load_for_trl(options.model, seed=options.seed, cpu=options.trl_cpu)
    groups = make_groups(tokenizer, options)
    rows = [
        {"prompt_ids": list(g.prompt), "chosen_ids": g.completions[0], "rejected_ids": g.completions[1]} for g in groups
    ]
    forget_peak_memory()
    turn.send(tokens_of(groups))
    turn.recv()

    class TakeTurns(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            self.wait(control)

        def on_step_end(self, args, state, control, **_):
            turn.send(Step(self.clock.cost(), sum(step_losses), sum(step_tokens)))
            step_losses.clear()
            step_tokens.clear()
            self.wait(control)

        def wait(self, control) -> None:
            if turn.recv() is None:
                control.should_training_stop = True
            self.clock = Clock()

    step_losses: list[float] = []
    step_tokens: list[int] = []
    accumulate = options.batch // options.trl_micro_batch
    seconds = [0.0]
    original = DPOTrainer._precompute_ref_logps

    def timed(self, dataset, name, batch_size):
        start = time.perf_counter()
        done = original(self, dataset, name, batch_size)
        seconds[0] += time.perf_counter() - start
        return done

    with (
        TemporaryDirectory() as folder,
        patch.object(DPOTrainer, "_precompute_ref_logps", timed),
        patch.object(DPOTrainer, "_prepare_dataset", lambda _self, dataset, *_: dataset),  # token ids already
    ):
        clock = Clock()
        trainer = DPOTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            callbacks=[TakeTurns()],
            args=settings(options, folder),
        )
        # All pairs were scored, with those that warm up, which do not count.
        counted = options.pairs / len(groups)
        turn.send(Step(replace(clock.cost(), seconds=seconds[0] * counted)))
        trainer.remove_callback(PrinterCallback)
        compute = trainer.compute_loss

        def noted(model, inputs, *args, **kwargs):
            loss = compute(model, inputs, *args, **kwargs)
            step_tokens.append(inputs["input_ids"].numel())
            step_losses.append(float(loss.detach()) / accumulate)
            return loss

        trainer.compute_loss = noted
        trainer.train()
