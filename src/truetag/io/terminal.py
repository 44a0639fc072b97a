"""What a person sees while a command runs: printable lines on standard error, and a progress bar."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_LINE_SECONDS = 30.0


def printable(text: str) -> str:
    r"""The text with its control characters escaped, as they could rewrite the screen of a terminal.

    >>> printable("photo\x1b[2J.jpg")
    'photo\\x1b[2J.jpg'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def tell(text: str) -> None:
    """Print a line on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


class Progress:
    """A progress bar on standard error, with the remaining time and a free text beside it.

    Where standard error is no terminal, a line every half minute replaces the bar. The remaining time is left out where
    steps take unequal times (`even=False`): it could only be wrong. `total` is None where the number of steps shows
    only at the end.
    """

    def __init__(self, what: str, total: int | None, even: bool = True) -> None:
        self.what, self.total, self.done, self.text, self.even = what, total, 0, "", even
        self.console = Console(file=sys.stderr)
        self.started = self.printed = time.monotonic()
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            *((TextColumn("left"), TimeRemainingColumn()) if even else ()),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(what, total=total, text="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if kind is None and not self.console.is_terminal and self.printed > self.started:
            self._print_line()

    def advance(self, count: int, text: str | None = None) -> None:
        """Add `count` to what is done, and replace the free text if one is given."""
        self.done += count
        self.text = self.text if text is None else text
        self.bar.update(self.task, completed=self.done, text=self.text)
        if not self.console.is_terminal and time.monotonic() - self.printed > _LINE_SECONDS:
            self._print_line()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _print_line(self) -> None:
        self.printed = time.monotonic()
        elapsed = self.printed - self.started
        count = self.done if self.total is None else f"{self.done}/{self.total}"
        line = f"{self.what}: {count} {self.text} {elapsed:.0f} s"
        if self.even and self.total is not None and 0 < self.done < self.total:
            line += f", about {elapsed / self.done * (self.total - self.done):.0f} s left"
        print(line, file=sys.stderr, flush=True)
