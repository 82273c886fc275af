"""Everything around a training loop: devices, run directory, console, trackers, model loading, resume, the ending.

A loop opens a session, asks it for a model, tells it what happened, and stays a plain loop.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from accelerate.utils import broadcast_object_list, set_seed
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlhf.atomic import write_whole
from rlhf.config.command import Command
from rlhf.config.resuming import find_run
from rlhf.config.trainer import TrainerConfig
from rlhf.config.yaml_file import to_yaml
from rlhf.cpu import has_bf16_kernels
from rlhf.distributed import device_of, led_by_main, make_accelerator, refuse_uneven
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.errors import UserError
from rlhf.groups import Layout
from rlhf.models.architecture import attention_window, longest_input, refuse_long, takes_shared_rows
from rlhf.models.loading import read_config
from rlhf.models.policy import choose_attention, choose_precision, find_model, load, load_policy, merge_lora
from rlhf.optimizer import NOT_FINITE, learning_rate, make_optimizer
from rlhf.report.run_page import write_report
from rlhf.run import checkpoints, lock
from rlhf.run import directory as run_directory
from rlhf.run.console import Console
from rlhf.run.inputs import changed, inputs, inside
from rlhf.run.interrupts import Interrupted, Stopped
from rlhf.run.stopwatch import Stopwatch, peak_memory_gb
from rlhf.run.tracking import Run, Trackers, command_line, for_shell, provenance, wanted_trackers
from rlhf.sampling import shares_prompts
from rlhf.statistics import in_brackets
from rlhf.text.end_tokens import tell_end_tokens

CARRIED = (run_directory.BEST,)  # files of the run directory that checkpoints bring back as they were
# What every loop logs alike. A loop describes its own metrics, and may describe one of these more closely.
METRICS = {
    "optim/lr": {"description": "Learning rate of the last optimizer step", "unit": ""},
    "optim/grad_norm": {"description": "Norm of the whole gradient before clipping, last optimizer step", "unit": ""},
    "speed/tokens_per_s": {
        "description": "Completion tokens trained on a second, all processes",
        "unit": "tokens/s",
    },
    "time/update_s": {"description": "Forward, backward and optimizer", "unit": "s"},
    "memory/peak_gb": {"description": "Peak memory so far", "unit": "GB"},
}
type Advice = Callable[[Mapping[str, float]], Sequence[str]]  # from a step's metrics to warnings


class Session:
    def __init__(
        self,
        command: Command[Any],
        metrics: Mapping[str, Any],
        *,
        title: str,
        headline: list[str],
        advice: Advice = lambda _: (),
    ):
        self.command, self.title, self.headline = command, title, headline
        self.metrics = {**metrics, **{key: METRICS[key] for key in METRICS if key not in metrics}}
        self._advice = advice
        self.config: TrainerConfig = command.config
        self.path = Path(command.config.output_dir)
        self.device = device_of(self.config.device)
        self.precision = choose_precision(self.config.precision, self.device)
        self.interrupted = Interrupted()
        self.watch = Stopwatch()
        self.results: dict[tuple[str, str], list[dict[str, Any]]] = {}  # evaluations by data and metric
        self.shared_prefix = self.config.shared_prefix
        self.stopping = False  # whether a signal ends the run after this step, in all processes alike
        self.finished = False  # whether the loop found that it has trained enough: see `finish_early`
        self.start = 0  # steps done when this process began
        self.reached = 0  # steps done so far
        self._evaluate: Callable[[int], None] = _nothing
        self._sample: Callable[[int], None] = _nothing
        # Until it is known which process this is, all speak.
        self.console = Console(quiet=command.quiet, main=True, max_steps=self.config.max_steps)
        self.lock: lock.Lock | None = None  # held by the main process
        self.made: list[Path] = []  # folders that this process made, the innermost first
        self.created = False  # whether the directory holds a run of this process's making
        self.done = 0  # steps of this process
        self.fresh = True  # whether the run begins here, so that what was before training is to be measured
        self.owes_evaluation = False  # whether the evaluation of the step that it goes on from was cut off
        self._begun = False
        self._early: list[tuple[int, str]] = []  # advice from before anything may be written
        self._fingerprint = self._data = ""

    def _open(self) -> None:
        """Look at everything that can be looked at at once. Nothing is written but the lock: see `begin`."""
        config = self.config
        if config.model_name:
            source = find_model(config.model_name)
            if getattr(config, "scratch", None) is None:
                self._refuse_max_length(read_config(source))
        trackers = wanted_trackers(
            wandb_project=config.wandb_project, wandb_mode=config.wandb_mode, tensorboard=config.tensorboard
        )
        self.accelerator = make_accelerator(
            device=self.device.type, precision=self.precision, trackers=trackers, run_path=self.path
        )
        size, parts = config.shared_size
        refuse_uneven(size, getattr(config, size), self.accelerator, parts=getattr(config, parts) if parts else 1)
        main = self.accelerator.is_main_process
        self.run = Run(self.path, writes=main)
        self.console = Console(quiet=self.command.quiet, main=main, max_steps=config.max_steps)
        with led_by_main(self.accelerator):
            if main:
                self._occupy()
        set_seed(config.seed)

    def _occupy(self) -> None:
        """See that the directory may be written, and become its only writer."""
        self._look_at_directory()
        self.made = run_directory.make_folder(self.path)
        self.lock = lock.take(self.path)
        if self.lock.took_over:
            self.console.say(f"the run was left by {lock.describe(self.lock.took_over)}, which has ended: taken over")
        self._look_at_directory()  # what was there may have changed before the lock was ours

    def _look_at_directory(self) -> None:
        exists = self.path.exists() or self.path.is_symlink()
        if self.command.source is not None:
            run_directory.refuse_within(self.path, self.command.source)
        if exists and not self.path.is_dir():
            raise UserError(f"the run directory '{self.path}' is a file", hint="--output_dir DIR writes elsewhere.")
        if self.command.resume:
            find_run(self.path, option="resume", trainer=self.command.trainer)
        elif exists and not run_directory.is_leftover(self.path):
            if not self.command.overwrite:
                raise UserError(
                    f"the run directory '{self.path}' exists already",
                    hint="--resume continues it, --overwrite replaces it, --output_dir DIR writes elsewhere.",
                )
            run_directory.refuse_to_replace(self.path)
            if names := inside(self.config.model_dump(mode="json"), self.path):
                raise UserError(
                    f"--overwrite: the run needs '{names[0]}', which is in '{self.path}' and would be removed",
                    hint="--output_dir DIR writes elsewhere.",
                )

    def _close(self, *, failed: bool) -> None:
        """Leave the directory to others. Of a run that failed before its first step, leave nothing, unless it has a
        checkpoint that it was forked from or a batch to be looked at: an evaluation alone cannot be gone on from."""
        worth_keeping = [self.path / NOT_FINITE, *self.path.glob("checkpoints/step_*")]
        if failed and self.created and not self.done and not any(it.exists() for it in worth_keeping):
            self._remove()
        if self.lock is not None:
            self.lock.release()
        for folder in self.made:  # only what is empty
            with suppress(OSError):
                folder.rmdir()

    def _remove(self) -> None:
        if self._begun:
            self.trackers.finish()
        run_directory.remove_contents(self.path)
        if not self.path.is_symlink():
            self.made = self.made or [self.path]

    def _provenance(self) -> dict[str, Any]:
        return provenance(
            title=f"{self.title} on {self._data}" if self._data else self.title,
            trainer=self.command.trainer,
            seed=self.config.seed,
            profile=self.command.profile,
            processes=self.accelerator.num_processes,
            data_fingerprint=self._fingerprint,
            inputs=inputs(self.config.model_dump(mode="json")),
            settings=self.config.model_dump(mode="json"),
            metrics=self.metrics,
            headline=self.headline,
        )

    # ---------------------------------------------------------------- before the loop

    def describe(self, *, data: str, data_fingerprint: str) -> None:
        """Say what is trained on, and show the opening panel.

        Raises:
            UserError: the run is to be continued, on other data.
        """
        config, accelerator = self.config, self.accelerator
        self._data, self._fingerprint = data, data_fingerprint
        if self.command.resume:
            self._refuse_other_data()
        processes = f" x {accelerator.num_processes}" if accelerator.num_processes > 1 else ""
        self.console.start(
            self.title,
            {
                "model": config.model_name,
                "data": data,
                "device": f"{accelerator.device.type}{processes}, {self.precision}",
                "profile": f"{self.command.profile} ({self.command.profile_reason})",
                "run": str(self.path),
            },
        )
        if self.precision == "bf16" and self.device.type == "cpu" and not has_bf16_kernels():
            self.console.say("bf16 is very slow on this processor: --precision fp32 is ten times as fast and more")

    def load_policy(self, scratch: Any = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model to train, on its device, with its tokenizer; `scratch` gives the sizes of a new one instead."""
        config = self.config
        if scratch is not None:
            model, tokenizer = new_model(**scratch.model_dump()).eval(), character_tokenizer()
        else:
            attention = choose_attention(config.attention, self.device)
            model, tokenizer = load(
                config.model_name,
                attention=attention,
                lora_rank=config.lora_rank,
                gradient_checkpointing=config.gradient_checkpointing,
            )
        self.settle(model, takes_shared_rows)
        kind = type(model).__name__
        window = attention_window(model)
        if not shares_prompts(model):
            self.console.say(f"{kind} cannot sample from a shared prompt: transformers' generate does it, slower")
        elif window is not None:
            self.console.say(
                f"{kind} looks back {window} tokens: texts longer than that are sampled by generate, slower"
            )
        return model, tokenizer

    def settle(self, model: PreTrainedModel, takes_shared_rows: Callable[[PreTrainedModel], bool]) -> None:
        """Put the model to train on its device, and find out which rows it takes: shared and packed ones, or a row for
        each completion.

        Raises:
            UserError: if it cannot read texts of max_length tokens.
        """
        self._refuse_max_length(model.config)
        model.to(self.accelerator.device)
        if model.config._attn_implementation == "flash_attention_2":
            self.shared_prefix = False
        if self.shared_prefix and not takes_shared_rows(model):
            self.shared_prefix = False
            self.console.say(
                f"{type(model).__name__} cannot take shared-prefix rows nor packed ones: each completion gets its own"
            )

    def _refuse_max_length(self, model: PreTrainedConfig) -> None:
        for key in ("max_length", "max_new_tokens"):
            value = getattr(self.config, key, 0)
            refuse_long(model, value, f"{key} is {value}", f"{key} (--{key} {longest_input(model)})")

    def load_reference(self) -> PreTrainedModel:
        """A frozen copy of the model as it was before training: `--model_name X` moves it along."""
        model = load_policy(self.config.model_name).to(self.accelerator.device)
        return model.requires_grad_(False)

    def _refuse_other_data(self) -> None:
        told = run_directory.read_provenance(self.path)
        hint = "--fork NEW_DIR instead of --resume starts another run from its newest checkpoint."
        names = changed(told.get("inputs") or {}, inputs(self.config.model_dump(mode="json")))
        if names:
            listed = ", ".join(f"'{name}'" for name in names)
            raise UserError(f"--resume: {listed} is not what it was when '{self.path}' was started", hint)
        before = told.get("data_fingerprint")
        if told.get("made_by") and before and before != self._fingerprint:  # early runs took it of less
            raise UserError(
                f"--resume: the data are not those of '{self.path}': fingerprint {before} in the run, now "
                f"{self._fingerprint}",
                hint,
            )

    def begin(self) -> tuple[int, dict[str, Any]]:
        """(steps done, the loop's state): (0, {}) for a new run, or one that was killed before its first checkpoint.

        Data, model and functions have been looked at: from here on there is a run. What it replaces goes now.
        """
        source = self.path if self.command.resume else self.command.source
        found = [None]
        with led_by_main(self.accelerator):
            if source is not None and self.run.writes:
                found = [checkpoints.newest(source)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        checkpoint = found[0]
        if self.command.source is not None and checkpoint is None:
            raise UserError(f"--fork: the run '{source}' has no checkpoint yet")
        if self.command.resume and checkpoint is None and (self.path / "final").exists():
            raise UserError(
                f"--resume: the run '{self.path}' is finished, and its checkpoints are gone: nothing to continue from",
                hint="--model_name DIR starts another run from its model; --overwrite makes it anew.",
            )
        if checkpoint is not None:
            self._refuse_nothing_to_do(checkpoint)
            checkpoints.load(self.accelerator, checkpoint)
        step, state = (checkpoint.step, checkpoint.state) if checkpoint else (0, {})
        self.start = self.reached = step
        with self.interrupted.handled(at_once=False):
            with led_by_main(self.accelerator):
                if self.run.writes:
                    (self._go_on if self.command.resume else self._start)(checkpoint)
            self.trackers = Trackers(self.accelerator, config=self.config, run=self.run)
            self._begun = True
        forked = self.command.source is not None
        self.fresh = checkpoint is None or forked or checkpoint.origin
        self.owes_evaluation = checkpoint is not None and not forked and not checkpoint.evaluated
        if self.command.resume:
            self.console.say(f"resumed at step {step} of {self.config.max_steps}")
        elif forked:
            self.console.say(f"another run from step {step} of {source}, to step {self.config.max_steps}")
        for record in self.run.records("eval"):
            self.results.setdefault((record["data"], record["metric"]), []).append(record)
        for at, text in self._early:
            self.advise(at, text)
        for metrics in self.logged():
            self._advice(metrics)
        return step, state

    def logged(self) -> list[dict[str, float]]:
        """The metrics of the steps so far: what an adviser had seen when the checkpoint was written."""
        return [{key: it for key, it in record.items() if it is not None} for record in self.run.records("metrics")]

    def _refuse_nothing_to_do(self, checkpoint: checkpoints.Checkpoint) -> None:
        done, wanted = checkpoint.step, self.config.max_steps
        if done > wanted or (done == wanted and self.command.source is not None):
            raise UserError(f"max_steps {wanted}: {done} steps are done already", hint="Give a larger --max_steps.")

    def _start(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Make the run directory, in place of what was there. The mark comes first and the config last: a directory
        without one is known as ours, and is no run to resume."""
        told = self._provenance()
        if checkpoint is not None:
            told["forked_from"] = {"run": str(self.command.source), "step": checkpoint.step}
        write_whole(self.path / "provenance.json", json.dumps(told, indent=1) + "\n")
        self.created = True
        run_directory.remove_contents(self.path, keep=(run_directory.LOCK, "provenance.json"))
        if checkpoint is not None:
            checkpoints.copy_as_origin(checkpoint, self.path)
            checkpoints.restore_carried(checkpoint, self.path, CARRIED)
        write_whole(self.path / "config.yaml", to_yaml(self.config))

    def _go_on(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Take the run directory back to its checkpoint, and write down what is new."""
        step, lines = (checkpoint.step, checkpoint.lines) if checkpoint else (-1, None)
        for text in self.run.forget_after(step, lines):
            self.console.say(text)
        if checkpoint is not None:
            checkpoints.restore_carried(checkpoint, self.path, CARRIED)
        checkpoints.remove_partial(self.path)
        shutil.rmtree(self.path / ".partial_final", ignore_errors=True)
        told = run_directory.read_provenance(self.path) or self._provenance()
        before = run_directory.read_config(self.path).get("max_steps")
        now = {"step": max(0, step), "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        told["resumed"] = [*told.get("resumed", []), now | {"command": command_line()}]
        write_whole(self.path / "provenance.json", json.dumps(told, indent=1) + "\n")
        write_whole(self.path / "config.yaml", to_yaml(self.config))
        if before != self.config.max_steps and self.config.lr_schedule != "constant":
            self.console.say(
                f"max_steps {before} -> {self.config.max_steps}: the {self.config.lr_schedule} schedule of the "
                f"learning rate ends at the new one from here on; the first {max(0, step)} steps followed the old one"
            )

    # ---------------------------------------------------------------- what the config says, for a loop

    @property
    def layout(self) -> Layout:
        """How groups are laid in rows and micro-batches: known once the model is loaded."""
        return {"token_budget": self.config.token_budget, "shared_prefix": self.shared_prefix}

    def make_optimizer(self, model: nn.Module, *, new: Sequence[nn.Parameter] = (), new_factor: float = 1.0):
        """AdamW with the settings of the run; see `rlhf.optimizer.make_optimizer`."""
        config = self.config
        betas = (config.adam_beta1, config.adam_beta2)
        return make_optimizer(
            model, lr=config.lr, betas=betas, weight_decay=config.weight_decay, new=new, new_factor=new_factor
        )

    def learning_rate(self, step: int, of: int | None = None) -> float:
        """Of optimizer step `step`, counted from 0; `of`: how many the whole run has, if not one a step."""
        return learning_rate(
            step,
            peak=self.config.lr,
            warmup_steps=self.config.warmup_steps,
            max_steps=self.config.max_steps if of is None else of,
            schedule=self.config.lr_schedule,
        )

    # ---------------------------------------------------------------- from within the loop

    def steps(self, evaluate: Callable[[int], None], sample: Callable[[int], None] | None = None) -> Generator[int]:
        """The steps to train, from 0, after `evaluate(step)` of a fresh run, or of what a killed run owes; a loop ends
        each with `end_step`, and there is no other after a signal.

        `sample(step)`: writes samples where they have to be made first; it is called when they are due, before the
        evaluation.
        """
        self._evaluate, self._sample = evaluate, sample or _nothing
        if self.fresh:
            evaluate(self.start)
        elif self.owes_evaluation and not self.complete(self.start, self._evaluate_when_due):
            return
        for step in range(self.start, self.config.max_steps):
            if self.finished or self.stopping:
                return
            yield step

    def is_edge(self, step: int) -> bool:
        """Whether the evaluation of this step is the first of a fresh run or the last of the whole run."""
        return self.is_first(step) or self._is_last(step)

    def is_first(self, step: int) -> bool:
        """Whether nothing was trained before the evaluation of this step."""
        return self.fresh and step == self.start

    def _is_last(self, done: int) -> bool:
        return self.finished or done == self.config.max_steps

    def is_due(self, what: Literal["sample", "evaluate", "save"], done: int) -> bool:
        """Whether samples, an evaluation or a checkpoint are due after `done` steps; after the last all are."""
        config = self.config
        due = {
            "sample": done == 1 or done % config.sample_every == 0,
            "evaluate": config.eval_every > 0 and done % config.eval_every == 0,
            "save": done % config.save_every == 0,
        }
        return due[what] or self._is_last(done)

    def finish_early(self) -> None:
        """Train no further: what is due after the last step is due now."""
        self.finished = True

    def end_step(self, done: int, *, state: Callable[[], Mapping[str, Any]] = dict) -> None:
        """Sample, evaluate and save when due.

        Args:
            state: what the loop has to know to go on from a checkpoint; called only when one is written.
        """
        self.reached = done
        evaluated = self.complete(done, self._evaluate_when_due)
        if self.stopping or self.is_due("save", done):
            self.save(done, state(), evaluated=evaluated)

    def _evaluate_when_due(self, done: int) -> None:
        if self.is_due("sample", done):
            self._sample(done)
        if self.is_due("evaluate", done):
            self._evaluate(done)

    def log(
        self, step: int, metrics: Mapping[str, float], *, tokens: int, show: Mapping[str, str] | None = None
    ) -> None:
        """Record a step, in all processes together, and warn where its metrics give reason to.

        Args:
            tokens: how many the step trained on, for the speed.
            show: what the console shows of it; by default the headline.
        """
        seconds = dict(self.watch.seconds)
        self.watch.seconds.clear()
        speed = tokens / max(1e-9, sum(seconds.values()))
        metrics = {
            **metrics,
            "speed/tokens_per_s": speed,
            **{f"time/{part}_s": second for part, second in seconds.items()},
            "memory/peak_gb": peak_memory_gb(self.accelerator.device),
        }
        self.run.log(step, metrics)
        self.done += 1
        self.interrupted.at_once = False  # from now on there is something to save
        self.trackers.log(step, metrics)
        shown = show or {key: f"{metrics[key]:.3f}" for key in self.headline}
        self.console.step(step, {**shown, "tok/s": f"{speed:,.0f}"})
        for text in self._advice(metrics):
            self.advise(step, text)

    def evaluated(self, step: int, results: Sequence[Mapping[str, Any]]) -> None:
        for result in results:
            record: dict[str, Any] = {"step": step, **result}
            _refuse_not_finite(record)
            self.run.append("eval", record)
            self.results.setdefault((record["data"], record["metric"]), []).append(record)
            self.trackers.log(step, {f"eval/{record['data']}/{record['metric']}": record["value"]})
            if not self.command.quiet:
                failed = f"; the verifier failed at {record['unverified']} answers" if record.get("unverified") else ""
                drawn = [f"{key} {record[key]:g}" for key in ("temperature", "top_k", "top_p") if key in record]
                self.console.say(
                    f"held-out after step {step}: {record['data']} {record['metric']} "
                    f"{record['value']:.3f}{in_brackets(record)} (n = {record['n']}{failed})"
                    + "".join(f", {it}" for it in drawn)
                )

    def forget_results_after(self, step: int, *, data: str) -> None:
        """Leave evaluations of later steps out of the summary at the end, where the weights of `step` are kept."""
        for (of, _), records in self.results.items():
            if of == data:
                records[:] = [record for record in records if record["step"] <= step]

    def samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Write some completions down, and show the first."""
        for sample in samples:
            self.run.append("samples", {"step": step, **sample})
        if samples:
            self.console.sample(samples[0]["prompt"], samples[0]["completion"], samples[0]["total"])

    def advise(self, step: int, text: str) -> None:
        """Say why a run cannot learn; each piece of advice once."""
        if not self._begun:
            self._early.append((step, text))
        elif text not in [record["text"] for record in self.run.records("advice")]:
            self.run.append("advice", {"step": step, "level": "warning", "text": text})
            self.console.warn(text)

    def complete(self, step: int, evaluate: Callable[[int], None]) -> bool:
        """Evaluate after a step, and find out whether the run is `stopping`: in all processes together.

        False: a signal came before the end of the evaluation, and the logs are as before it; `save` it so. Several
        processes see an evaluation through that they have begun: they would wait for one that ended.
        """
        self.stopping = self.interrupted.heard_by_any(self.accelerator)
        if self.stopping:
            return False
        before = self.run.lines() if self.run.writes else {}
        results = {key: list(records) for key, records in self.results.items()}
        try:
            with self.interrupted.handled(at_once=self.accelerator.num_processes == 1):
                evaluate(step)
        except Stopped:
            self.results, self.stopping = results, True
            self.run.forget_after(step, before)
            return False
        self.stopping = self.interrupted.heard_by_any(self.accelerator)
        return True

    def save(self, step: int, state: Mapping[str, Any], *, evaluated: bool = True) -> None:
        """Write a checkpoint. `evaluated`: what `complete` returned."""
        checkpoints.save(
            self.accelerator,
            self.path,
            step,
            state,
            keep=self.config.keep_checkpoints,
            lines=self.run.lines() if self.run.writes else None,
            carry=[self.path / name for name in CARRIED],
            evaluated=evaluated,
        )

    # ---------------------------------------------------------------- after the loop

    def end(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, next_command: str = "") -> int:
        """Write the final model and the report, unless a signal ended the loop. Returns the exit code."""
        if self.stopping:
            return self.leave(self.reached)
        self.finish(model, tokenizer, next_command=next_command)
        return 0

    def leave(self, step: int) -> int:
        self.console.say(f"stopped after step {step}, saved; --resume continues")
        self.trackers.finish()
        return self.interrupted.exit_code

    def finish(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, next_command: str = "") -> None:
        """Save `final/` in Hugging Face format, write the report, show before and after; `{run}` in the next command is
        the run's directory."""
        if self.accelerator.is_main_process:
            final, partial = self.path / "final", self.path / ".partial_final"
            if self.config.lora_rank:
                merge_lora(model)
            tell_end_tokens(model, tokenizer)
            try:
                model.save_pretrained(partial)
                tokenizer.save_pretrained(partial)
            except Exception as error:
                raise checkpoints.not_written(f"the model '{final}'", partial, error) from error
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            for name in CARRIED:  # the last checkpoint has it
                (self.path / name).unlink(missing_ok=True)
            report = write_report(self.path)
            for (data, metric), records in self.results.items():
                self.console.say(f"{data} {metric}: {before_and_after(records)}")
            self.console.say(
                f"report: {report}\nmodel:  {final}"
                + (f"\nnext:   {for_shell(next_command, run=self.path)}" if next_command else "")
            )
        self.accelerator.wait_for_everyone()
        self.trackers.finish()


def _nothing(_: int) -> None:
    pass


def _refuse_not_finite(record: Mapping[str, Any]) -> None:
    if not math.isfinite(record["value"]):
        raise UserError(
            f"held-out {record['data']} {record['metric']} after step {record['step']} is {record['value']}: the run "
            "stops here",
            hint="What the model computes is not finite. A lower lr, a smaller max_grad_norm or precision fp32 are the "
            "first things to try.",
        )


def before_and_after(records: Sequence[Mapping[str, Any]]) -> str:
    """The first and the last evaluation of a metric; just the one if there is no other."""
    after = records[-1]
    before = f"{records[0]['value']:.3f} -> " if len(records) > 1 else ""
    return f"{before}{after['value']:.3f}{in_brackets(after)}, n = {after['n']}"


@contextmanager
def open_session(
    command: Command[Any],
    metrics: Mapping[str, Any],
    *,
    title: str,
    headline: list[str],
    advice: Advice = lambda _: (),
) -> Generator[Session]:
    """Set a run up; if it fails before its first record, leave nothing behind.

    Args:
        metrics: the loop's own metrics, each with a description and a unit; `METRICS` come on top.
        title: what is trained, for people.
        headline: the metrics that the console and the comparison of runs show first.
        advice: from the metrics of a step to warnings that they give reason to; called with every step of the run.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # tied weights are saved once: nothing to warn of
    session = Session(command, metrics, title=title, headline=headline, advice=advice)
    failed = True
    try:
        session._open()
        with session.console:
            for note in command.notes:
                session.console.say(note)
            yield session
        failed = False
    except Stopped:
        if session.done == 0 and session.created:
            session._remove()
        what = "nothing is left of it" if session.created or not command.resume else "the run is as it was"
        if session.done == 0:
            session.console.say(f"stopped before the first step: {what}")
        raise
    finally:
        session._close(failed=failed)
        session.interrupted.stop_listening()
