"""A run before its loop: devices, the run directory, data and model looked at, and the place where training begins."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, set_seed

from rlhf.atomic import write_whole
from rlhf.config.command import Command
from rlhf.config.reference import offloads_reference
from rlhf.config.trainer import TrainerConfig
from rlhf.config.yaml_file import to_yaml
from rlhf.cpu.kernels import has_bf16_kernels
from rlhf.distributed import command_for_several, device_of, led_by_main, make_accelerator, refuse_uneven
from rlhf.errors import UserError
from rlhf.models.architecture import refuse_long_settings
from rlhf.models.loading import read_config
from rlhf.models.policy import choose_precision, find_model
from rlhf.models.saving import own_dtype
from rlhf.optimizer import NOT_FINITE
from rlhf.run import checkpoints, lock
from rlhf.run import directory as run_directory
from rlhf.run.console import Console
from rlhf.run.final import remove_partial
from rlhf.run.inputs import changed, inputs
from rlhf.run.interrupts import Interrupted
from rlhf.run.metrics import METRICS
from rlhf.run.models import Models
from rlhf.run.stopwatch import Stopwatch
from rlhf.run.tracking import Run, Trackers, command_line, for_shell, provenance, wanted_trackers

CARRIED = (run_directory.BEST,)  # files of the run directory that checkpoints bring back as they were
type Advice = Callable[[Mapping[str, float]], Sequence[str]]  # from a step's metrics to warnings


class Opening(Models):
    """A run before its loop. `Session` goes on from here."""

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
        if self.config.low_memory and self.precision != "bf16":
            raise UserError(
                f"low_memory: weights in bf16 are trained in bf16; precision auto is fp32 on this {self.device.type}",
                hint="Leave low_memory out, train with --lora_rank 32, or ask for --precision bf16: slow here.",
            )
        if offloads_reference(self.config) and self.device.type != "cuda":
            raise UserError(
                f"offload_reference: on this {self.device.type} the reference is in the processor's memory already",
                hint="It is for --device cuda, where the GPU has a memory of its own.",
            )
        self.interrupted = Interrupted(ends_process=not command.called)
        self.dtype, self.base = torch.float32, ""  # what the model was stored in, and where it is
        self.watch = Stopwatch()
        self.results: dict[tuple[str, str], list[dict[str, Any]]] = {}  # evaluations by data and metric
        self.shared_prefix = self.config.shared_prefix
        self.stopping = False  # whether a signal ends the run after this step, in all processes alike
        self.finished = False  # whether the loop found that it has trained enough: see `finish_early`
        self.start = 0  # steps done when this process began
        self.reached = 0  # steps done so far
        # Until it is known which process this is, all speak.
        self.console = Console(quiet=command.quiet, main=True, max_steps=self.config.max_steps)
        self.lock: lock.Lock | None = None  # held by the main process
        self.made: list[Path] = []  # folders that this process made, the innermost first
        self.leftovers: list[Path] = []  # folders that are of no use once this process leaves the run, however it does
        self.created, self.done = False, 0  # whether this process made the run; how many steps it has done
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
                refuse_long_settings(read_config(source), config)
                self.dtype, self.base = own_dtype(source), source.place
        trackers = wanted_trackers(config)
        self.accelerator = make_accelerator(
            device=self.device.type, precision=self.precision, trackers=trackers, run_path=self.path
        )
        if config.memory_gb and self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.accelerator.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, config.memory_gb * 1e9 / total))
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
        run_directory.look_at(self.command)
        self.made = run_directory.make_folder(self.path)
        self.lock = lock.take(self.path)
        if self.lock.took_over:
            self.console.say(f"the run was left by {lock.describe(self.lock.took_over)}, which has ended: taken over")
        run_directory.look_at(self.command)  # what was there may have changed before the lock was ours

    def _close(self, *, failed: bool) -> None:
        """Leave the directory to others. Of a run that failed before its first step, leave nothing, unless it has a
        checkpoint that it was forked from or a batch to be looked at: an evaluation alone cannot be gone on from."""
        for folder in self.leftovers:
            shutil.rmtree(folder, ignore_errors=True)
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
            self.command,
            algorithm=self.title,
            data=self._data,
            data_fingerprint=self._fingerprint,
            processes=self.accelerator.num_processes,
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
                **({"curves": for_shell("tensorboard --logdir {run}", run=self.path)} if config.tensorboard else {}),
            },
        )
        if self.precision == "bf16" and self.device.type == "cpu" and not has_bf16_kernels():
            self.console.say("bf16 is very slow on this processor: --precision fp32 is ten times as fast and more")
        if config.fsdp and accelerator.num_processes == 1:
            self.console.say(f"fsdp divides nothing among one process; several: {command_for_several()}")
        if config.memory_gb and self.device.type != "cuda":
            self.console.say(f"memory_gb limits a run on a GPU alone, not on {self.device.type}")

    def _refuse_other_data(self) -> None:
        told = run_directory.read_provenance(self.path)
        hint = "--fork NEW_DIR instead of --resume starts another run from its newest checkpoint."
        if names := changed(told.get("inputs") or {}, inputs(self.config.model_dump(mode="json"))):
            found = "', '".join(names)
            raise UserError(f"--resume: '{found}' is not what it was when '{self.path}' was started", hint)
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
        self.say_what_moved()
        # What was advised on the steps so far: an adviser looks back on more than one.
        for record in self.run.records("metrics"):
            self._advice({key: value for key, value in record.items() if value is not None})
        return step, state

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
        remove_partial(self.path)
        told = run_directory.read_provenance(self.path) or self._provenance()
        before = run_directory.read_config(self.path).get("max_steps")
        now = {"step": max(0, step), "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        now |= {"command": command_line(), "processes": self.accelerator.num_processes}
        told["resumed"] = [*told.get("resumed", []), now]
        write_whole(self.path / "provenance.json", json.dumps(told, indent=1) + "\n")
        write_whole(self.path / "config.yaml", to_yaml(self.config))
        if before != self.config.max_steps and self.config.lr_schedule != "constant":
            self.console.say(
                f"max_steps {before} -> {self.config.max_steps}: the {self.config.lr_schedule} schedule of the "
                f"learning rate ends at the new one from here on; the first {max(0, step)} steps followed the old one"
            )

    def advise(self, step: int, text: str) -> None:
        """Say why a run cannot learn; each piece of advice once."""
        if not self._begun:
            self._early.append((step, text))
        elif text not in [record["text"] for record in self.run.records("advice")]:
            self.run.append("advice", {"step": step, "level": "warning", "text": text})
            self.console.warn(text)
