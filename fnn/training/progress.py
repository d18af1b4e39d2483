"""The progress bar."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Generator

import numpy as np


@contextlib.contextmanager
def progress_bar() -> Generator[Callable[[float, np.ndarray], None]]:
    """A bar where rich is installed and stderr is a terminal; elsewhere nothing."""
    if not (sys.stderr.isatty() and importlib.util.find_spec("rich")):
        yield lambda *_: None
        return
    from rich import console, progress

    columns = (
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("value {task.fields[value]:.4g}"),
        progress.TimeRemainingColumn(),
    )
    screen = console.Console(stderr=True)
    with progress.Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("fit", total=1.0, value=np.nan)

        def move(fraction: float, values: np.ndarray) -> None:
            finite = values[np.isfinite(values)]
            bar.update(task, completed=fraction)
            if len(finite):
                bar.tasks[task].fields["value"] = finite[-1]

        yield move
