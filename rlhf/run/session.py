"""Everything around a training loop: devices, run directory, console, trackers, model loading, resume, the ending.

A loop opens a session, asks it for a model, tells it what happened, and stays a plain loop.
"""

import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlhf.config.command import Command
from rlhf.errors import ServerGoneError, UserError
from rlhf.groups import Layout
from rlhf.models.saving import DTYPES
from rlhf.optimizer import learning_rate, make_optimizer
from rlhf.report.run_page import write_report
from rlhf.run import checkpoints
from rlhf.run.final import ADAPTER, write_final
from rlhf.run.interrupts import Stopped
from rlhf.run.opening import CARRIED, Advice, Opening
from rlhf.run.result import RunResult
from rlhf.run.stopwatch import peak_memory_gb
from rlhf.run.tracking import for_shell
from rlhf.statistics import in_brackets


class Session(Opening):
    """What a loop asks for: its steps, what is due, records, checkpoints, the ending."""

    def __init__(
        self,
        command: Command[Any],
        metrics: Mapping[str, Any],
        *,
        title: str,
        headline: list[str],
        advice: Advice = lambda _: (),
    ):
        super().__init__(command, metrics, title=title, headline=headline, advice=advice)
        self._evaluate: Callable[[int], None] = _nothing
        self._sample: Callable[[int], None] = _nothing
        self._state: Callable[[], Mapping[str, Any]] = dict  # of the loop, once it has done a step

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
        """The steps that are left to train, counted from 0. The loop ends each with `end_step`; a signal ends them.

        Args:
            evaluate: measures held-out data after so many steps. It is called at the start of a fresh run, or for an
                evaluation that a killed run did not finish, and then by `end_step` when it is due.
            sample: writes samples, for a loop that has to make them first. `end_step` calls it before `evaluate`.
        """
        self._evaluate, self._sample = evaluate, sample or _nothing
        if self.fresh:
            evaluate(self.start)
        elif self.owes_evaluation and not self._complete(self.start):
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
        """Make the current step the last one: what is due after the last step is due now."""
        self.finished = True

    def end_step(self, done: int, *, state: Callable[[], Mapping[str, Any]] = dict) -> None:
        """Sample, evaluate and save when due.

        Args:
            state: what the loop has to know to go on from a checkpoint; called only when one is written.
        """
        self.reached = done
        self._state = state
        evaluated = self._complete(done)
        if self.stopping or self.is_due("save", done):
            self._save(done, state(), evaluated=evaluated)

    @contextmanager
    def saved_if_cut_off(self) -> Generator[None]:
        """For what a step waits for elsewhere: if it is gone for good, or a signal ends the waiting, the run is saved
        as it is after the last step. Until the block has what it waits for, it leaves the loop's state as it was."""
        try:
            yield
        except (ServerGoneError, Stopped):
            if self.reached > self.start:
                self._save(self.reached, self._state())
                self.console.say(f"saved after step {self.reached}; --resume continues")
            raise

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
            metrics: of the step; `optim/steps` where it was not one optimizer step.
            tokens: how many the step trained on, for the speed.
            show: what the console shows of it; by default the headline.
        """
        seconds = dict(self.watch.seconds)
        self.watch.seconds.clear()
        speed = tokens / max(1e-9, sum(seconds.values()))
        metrics = {
            "optim/steps": 1.0,
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

    def log_evaluation(self, step: int, results: Sequence[Mapping[str, Any]]) -> None:
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
                    f"{record['value']:z.3f}{in_brackets(record)} (n = {record['n']}{failed})"
                    + "".join(f", {it}" for it in drawn)
                )

    def forget_results_after(self, step: int, *, data: str) -> None:
        """Leave evaluations of later steps out of the summary at the end, where the weights of `step` are kept."""
        for (of, _), records in self.results.items():
            if of == data:
                records[:] = [record for record in records if record["step"] <= step]

    def log_samples(self, step: int, samples: Sequence[Mapping[str, Any]], *, right: int | None = None) -> None:
        """Write some completions down, and show one: the next of them each time, since their prompts may stay the same.

        Args:
            right: how many of them are right, where they are verified, to be shown beside it.
        """
        for sample in samples:
            self.run.append("samples", {"step": step, **sample})
        if samples:
            shown = samples[step // self.config.sample_every % len(samples)]
            note = "" if right is None else f"{right} of {len(samples)} right"
            self.console.sample(shown["prompt"], shown["completion"], shown["total"], note=note)

    def _complete(self, step: int) -> bool:
        """Evaluate after a step if that is due, and find out whether the run is `stopping`: in all processes together.

        False: a signal came before the end of the evaluation, and the logs are as before it; it is saved so. Several
        processes see an evaluation through that they have begun: they would wait for one that ended.
        """
        self.stopping = self.interrupted.heard_by_any(self.accelerator)
        if self.stopping:
            return False
        before = self.run.lines() if self.run.writes else {}
        results = {key: list(records) for key, records in self.results.items()}
        try:
            with self.interrupted.handled(at_once=self.accelerator.num_processes == 1):
                self._evaluate_when_due(step)
        except Stopped:
            self.results, self.stopping = results, True
            self.run.forget_after(step, before)
            return False
        self.stopping = self.interrupted.heard_by_any(self.accelerator)
        return True

    def _save(self, step: int, state: Mapping[str, Any], *, evaluated: bool = True) -> None:
        """Write a checkpoint. `evaluated`: what `_complete` returned."""
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

    def end(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, next_command: str = "") -> RunResult:
        """Write the final model and the report, unless a signal ended the loop."""
        if self.stopping:
            return RunResult(self.path, model, tokenizer, exit_code=self._leave())
        self._finish(model, tokenizer, next_command=next_command)
        return RunResult(self.path, model, tokenizer)

    def _leave(self) -> int:
        self.console.say(f"stopped after step {self.reached}, saved; --resume continues")
        self.trackers.finish()
        return self.interrupted.exit_code

    def _finish(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, next_command: str = "") -> None:
        """Save `final/` in Hugging Face format, write the report, show before and after; `{run}` in the next command is
        the run's directory."""
        if self.accelerator.is_main_process:
            grown = bool(getattr(self.config, "extra_layers", 0))  # then the adapters do not fit the base alone
            final = write_final(
                self.path,
                model,
                tokenizer,
                dtype=DTYPES.get(self.config.save_dtype, self.dtype),
                lora=bool(self.config.lora_rank),
                base=None if grown else self.base,
            )
            for name in CARRIED:  # the last checkpoint has it
                (self.path / name).unlink(missing_ok=True)
            report = write_report(self.path)
            for (data, metric), records in self.results.items():
                self.console.say(f"{data} {metric}: {before_and_after(records)}")
            self.console.say(
                f"report: {report}\nmodel:  {final}"
                + (f"\nadapter: {self.path / ADAPTER}" if self.config.lora_rank and not grown else "")
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
    before = f"{records[0]['value']:z.3f} -> " if len(records) > 1 else ""
    return f"{before}{after['value']:z.3f}{in_brackets(after)}, n = {after['n']}"


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
        metrics: the loop's own metrics, each with a description and a unit; those of `rlhf.run.metrics` are added.
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
