"""What a person sees while a run goes on: a panel, a bar, a sample now and then, a result. Plain lines if not a TTY."""

from collections.abc import Mapping

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class Console:
    """Silent in all processes but the main one."""

    def __init__(self, *, quiet: bool, main: bool, max_steps: int, done: int = 0):
        self.rich = RichConsole(quiet=not main, soft_wrap=True, highlight=False)
        self.quiet, self.max_steps = quiet, max_steps
        self.progress: Progress | None = None
        if main and not quiet and self.rich.is_terminal:
            self.progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self.rich,
            )
            self.bar = self.progress.add_task("train", total=max_steps, completed=done, numbers="")

    def __enter__(self) -> "Console":
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *_exception) -> None:
        if self.progress:
            self.progress.stop()

    def start(self, title: str, facts: Mapping[str, str]) -> None:
        if self.quiet:
            return
        if not self.rich.is_terminal:
            self.rich.print(f"{title}: " + ", ".join(f"{key} {escape(value)}" for key, value in facts.items()))
            return
        table = Table.grid(padding=(0, 2))
        for key, value in facts.items():
            table.add_row(f"[dim]{key}[/dim]", escape(value))
        self.rich.print(Panel(table, title=f"[bold]{title}[/bold]", title_align="left", expand=False))

    def step(self, step: int, numbers: Mapping[str, str]) -> None:
        text = "  ".join(f"{key} {value}" for key, value in numbers.items())
        if self.progress:
            self.progress.update(self.bar, completed=step, numbers=text)
        elif not self.quiet and (step <= 1 or step % 10 == 0 or step == self.max_steps):
            self.rich.print(f"step {step}/{self.max_steps}  {text}")

    def sample(self, prompt: str, completion: str, reward: float, *, note: str = "") -> None:
        """One completion on a line, behind the last line of its prompt; `note`: what there is to say of its like."""
        if not self.quiet:
            one_line = escape(completion.replace("\n", "⏎"))
            numbers = escape(f"{reward:.2f}{f'; {note}' if note else ''}")
            self.rich.print(f"[dim]{escape(prompt.strip().splitlines()[-1])}[/dim] → {one_line} [dim]({numbers})[/dim]")

    def say(self, text: str) -> None:
        """Printed even with --quiet: what the reader of a script's output needs."""
        self.rich.print(escape(text))

    def warn(self, text: str) -> None:
        self.rich.print(f"[yellow]advice:[/yellow] {escape(text)}")
