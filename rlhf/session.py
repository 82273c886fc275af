"""Everything around a training loop: devices, run directory, console, trackers, model loading, resume, the ending.

A loop opens a session, asks it for a model, tells it what happened, and stays a plain loop.
"""

import json
import logging
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, set_seed
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlhf import checkpoints
from rlhf.architecture import attention_window, takes_shared_rows
from rlhf.config import Command, to_yaml
from rlhf.console import Console
from rlhf.cpu import has_bf16_kernels
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.end_tokens import tell_end_tokens
from rlhf.loop import (
    Interrupted,
    Stopwatch,
    device_of,
    led_by_main,
    make_accelerator,
    peak_memory_gb,
    refuse_uneven,
)
from rlhf.models import choose_attention, choose_precision, find_model, load, load_policy, merge_lora
from rlhf.report import write_report
from rlhf.sampling import shares_prompts
from rlhf.settings import TrainerConfig
from rlhf.statistics import in_brackets
from rlhf.tracking import Run, Trackers, discard_if_empty, open_run, provenance, wanted_trackers, write_whole


class Session:
    def __init__(self, command: Command[Any], metrics: Mapping[str, Any], *, title: str, headline: list[str]):
        self.command, self.metrics, self.title, self.headline = command, metrics, title, headline
        self.config: TrainerConfig = command.config
        self.path = Path(command.config.output_dir)
        self.device = device_of(self.config.device)
        self.precision = choose_precision(self.config.precision, self.device)
        self.interrupted = Interrupted()
        self.watch = Stopwatch()
        self.results: dict[tuple[str, str], list[dict[str, Any]]] = {}  # evaluations by data and metric
        self.shared_prefix = self.config.shared_prefix
        self.created = False  # whether this process made the run directory
        self.stopping = False  # whether the run ends after this step, in all processes alike

    def _open(self) -> None:
        config = self.config
        # Every check that can fail comes before anything is written.
        if config.model_name:
            find_model(config.model_name)
        trackers = wanted_trackers(
            wandb_project=config.wandb_project, wandb_mode=config.wandb_mode, tensorboard=config.tensorboard
        )
        self.accelerator = make_accelerator(
            device=self.device.type, precision=self.precision, trackers=trackers, run_path=self.path
        )
        size, parts = config.shared_size
        refuse_uneven(size, getattr(config, size), self.accelerator, parts=getattr(config, parts) if parts else 1)
        main = self.accelerator.is_main_process
        self.run = Run(self.path, writes=False)
        with led_by_main(self.accelerator):
            if main:
                self.run = open_run(
                    self.path,
                    resume=self.command.resume,
                    overwrite=self.command.overwrite,
                    config_yaml=to_yaml(config),
                    provenance=self._provenance("", ""),
                )
                self.created = not self.command.resume
        set_seed(config.seed)
        self.console = Console(quiet=self.command.quiet, main=main, max_steps=config.max_steps)
        self.trackers = Trackers(self.accelerator, config=config, run=self.run)

    def _provenance(self, data: str, fingerprint: str) -> dict[str, Any]:
        return provenance(
            title=f"{self.title} on {data}" if data else self.title,
            seed=self.config.seed,
            profile=self.command.profile,
            processes=self.accelerator.num_processes,
            data_fingerprint=fingerprint,
            metrics=self.metrics,
            headline=self.headline,
        )

    # ---------------------------------------------------------------- before the loop

    def describe(self, *, data: str, data_fingerprint: str) -> None:
        """Record what is trained on, and show the opening panel."""
        config, accelerator = self.config, self.accelerator
        if self.run.writes and not self.command.resume:
            text = json.dumps(self._provenance(data, data_fingerprint), indent=1)
            write_whole(self.path / "provenance.json", text + "\n")
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
            if attention == "flash_attention_2":
                self.shared_prefix = False
        model.to(self.accelerator.device)
        kind = type(model).__name__
        if self.shared_prefix and not takes_shared_rows(model):
            self.shared_prefix = False
            self.console.say(f"{kind} cannot take shared-prefix rows: each completion gets its own row")
        window = attention_window(model)
        if not shares_prompts(model):
            self.console.say(f"{kind} cannot sample from a shared prompt: transformers' generate does it, slower")
        elif window is not None:
            self.console.say(
                f"{kind} looks back {window} tokens: texts longer than that are sampled by generate, slower"
            )
        return model, tokenizer

    def load_reference(self) -> PreTrainedModel:
        """A frozen copy of the model as it was before training: `--model_name X` moves it along."""
        model = load_policy(self.config.model_name).to(self.accelerator.device)
        return model.requires_grad_(False)

    def resume(self) -> tuple[int, dict[str, Any]]:
        """(steps done, the loop's state): (0, {}) for a new run, or one that was killed before its first checkpoint."""
        if not self.command.resume:
            return 0, {}
        found = [checkpoints.newest(self.path) if self.run.writes else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        step, state = (0, {}) if found[0] is None else checkpoints.load(self.accelerator, found[0])
        self.run.forget_after(step if found[0] else -1)
        self.console.say(f"resumed at step {step} of {self.config.max_steps}")
        for record in self.run.records("eval"):
            self.results.setdefault((record["data"], record["metric"]), []).append(record)
        return step, state

    # ---------------------------------------------------------------- from within the loop

    def log(
        self, step: int, metrics: Mapping[str, float], *, tokens: int, show: Mapping[str, str] | None = None
    ) -> None:
        """Record a step, in all processes together. `tokens`: how many the step trained on, for the speed."""
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
        self.trackers.log(step, metrics)
        shown = show or {key: f"{metrics[key]:.3f}" for key in self.headline}
        self.console.step(step, {**shown, "tok/s": f"{speed:,.0f}"})
        self.stopping = self.interrupted.heard_by_any(self.accelerator)

    def evaluated(self, step: int, results: Sequence[Mapping[str, Any]]) -> None:
        for result in results:
            record: dict[str, Any] = {"step": step, **result}
            self.run.append("eval", record)
            self.results.setdefault((record["data"], record["metric"]), []).append(record)
            self.trackers.log(step, {f"eval/{record['data']}/{record['metric']}": record["value"]})
            if not self.command.quiet:
                failed = f"; the verifier failed at {record['unverified']} answers" if record.get("unverified") else ""
                self.console.say(
                    f"held-out after step {step}: {record['data']} {record['metric']} "
                    f"{record['value']:.3f}{in_brackets(record)} (n = {record['n']}{failed})"
                )

    def samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Write some completions down, and show the first."""
        for sample in samples:
            self.run.append("samples", {"step": step, **sample})
        if samples:
            self.console.sample(samples[0]["prompt"], samples[0]["completion"], samples[0]["total"])

    def advise(self, step: int, text: str) -> None:
        """Say why a run cannot learn; each piece of advice once."""
        if text not in [record["text"] for record in self.run.records("advice")]:
            self.run.append("advice", {"step": step, "level": "warning", "text": text})
            self.console.warn(text)

    # ---------------------------------------------------------------- after the loop

    def leave(self, step: int) -> int:
        self.console.say(f"stopped after step {step}, saved; --resume continues")
        self.trackers.finish()
        return self.interrupted.exit_code

    def finish(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, next_command: str = "") -> None:
        """Save `final/` in Hugging Face format, write the report, show before and after."""
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
            report = write_report(self.path)
            for (data, metric), records in self.results.items():
                self.console.say(f"{data} {metric}: {before_and_after(records)}")
            self.console.say(
                f"report: {report}\nmodel:  {final}" + (f"\nnext:   {next_command}" if next_command else "")
            )
        self.accelerator.wait_for_everyone()
        self.trackers.finish()


def before_and_after(records: Sequence[Mapping[str, Any]]) -> str:
    """The first and the last evaluation of a metric; just the one if there is no other."""
    after = records[-1]
    before = f"{records[0]['value']:.3f} -> " if len(records) > 1 else ""
    return f"{before}{after['value']:.3f}{in_brackets(after)}, n = {after['n']}"


@contextmanager
def open_session(
    command: Command[Any], metrics: Mapping[str, Any], *, title: str, headline: list[str]
) -> Generator[Session]:
    """Set a run up; if it fails before its first record, leave nothing behind."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # tied weights are saved once: nothing to warn of
    session = Session(command, metrics, title=title, headline=headline)
    try:
        session._open()
        with session.console:
            yield session
    except BaseException:
        if session.created:
            discard_if_empty(session.path)
        raise
    finally:
        session.interrupted.stop_listening()
