"""The folder of a run: whose it is, for which job, and what lies in it."""

import contextlib
import json
import os
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fnn.locks import locked
from fnn.training.identity import differences_of

_JOB, _LOCK, _MARK = "job.json", "lock", "a job of fnn.fit"
_LEAVING = ".leaving"  # the ending of a checkpoint that is being deleted


@contextlib.contextmanager
def opened(folder: Path, job: dict[str, Any]) -> Generator[None]:
    """The folder, for this process and this job alone; the first process looks after it."""
    with contextlib.ExitStack() as stack:
        problem = None
        if jax.process_index() == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _stored(folder)
                _require_alone(folder, stack.enter_context(open(folder / _LOCK, "ab")))
                _require_same(folder, job)
            except OSError as error:
                problem = ValueError(
                    "fit: expected a folder for checkpoints that can be written, got "
                    f"{folder} ({error}); try another one"
                )
            except ValueError as error:
                problem = error
        if not agreed(problem is None):
            raise problem or ValueError(
                "fit: the first process says what is wrong with checkpoint="
            )
        yield


def _stored(folder: Path) -> dict[str, Any] | None:
    """The job of a folder, if it has one; if it has anything else, an error."""
    file, names = folder / _JOB, sorted(path.name for path in folder.iterdir())
    if not file.exists():
        if set(names) - {_LOCK, f"{_JOB}.tmp"}:
            raise ValueError(
                f"fit: expected {folder} to be empty or to hold checkpoints of this job, got "
                f"{', '.join(names[:5])}{', ...' * (len(names) > 5)}; try a new folder"
            )
        return None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return dict(json.loads(file.read_text())[_MARK])
    raise ValueError(
        f"fit: expected {file} to describe a job of fit, got another file, or a damaged one; try a "
        "new folder"
    )


def _require_alone(folder: Path, lock: Any) -> None:
    """Locks the folder, or says that another process has."""
    if not locked(lock):
        raise ValueError(
            f"fit: expected {folder} for this process alone, got one in which another trains; try "
            "a new folder, or wait for it"
        )


def _require_same(folder: Path, job: dict[str, Any]) -> None:
    """Compares the job of the checkpoints; where there is none, this job is written down."""
    stored, asked = _stored(folder), json.loads(json.dumps(job))
    if stored is not None and numbers_in(folder):
        if differences := differences_of(stored, asked):
            raise ValueError(
                "fit: expected the job whose checkpoints are in "
                f"{folder}: {'; '.join(differences[:6])}{'; ...' * (len(differences) > 6)}; "
                "try a new folder, or the arguments of that job"
            )
        return
    beside = folder / f"{_JOB}.tmp"
    beside.write_text(json.dumps({_MARK: job}, indent=1))
    os.replace(beside, folder / _JOB)


def numbers_in(folder: Path) -> list[int]:
    """The numbers of the checkpoints in a folder, the newest last."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def delete(folder: Path, numbers: Iterable[int] = ()) -> None:
    """Deletes these checkpoints, and what a write left that did not come to its end."""
    if jax.process_index() != 0:
        return
    for number in numbers:  # a kill amid the deletion leaves no half of a checkpoint
        os.replace(folder / str(number), folder / f"{number}{_LEAVING}")
    for ending in (_LEAVING, ".orbax-checkpoint-tmp*"):
        for path in folder.glob(f"*{ending}"):
            shutil.rmtree(path, ignore_errors=True)


def agreed(due: bool) -> bool:
    """What the first process says, for clocks differ."""
    if jax.process_count() == 1:
        return due
    return bool(multihost_utils.broadcast_one_to_all(np.array(due)))
