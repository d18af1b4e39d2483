"""Checkpoints of `fit`: enough on disk to go on as though nothing had happened.

A run has a folder of its own:

    job.json     what is trained: every leaf of the carry and of the data, the key, the terms
    lock         held by the process that trains; the system opens it when that ends, in any way
    1, 2, ...    checkpoints, the newest last, each written beside its place and then renamed

A checkpoint holds the carry of the loop, the history so far, where the batches were, and sums by
which damage is noticed. Orbax writes it in the background while training goes on; nothing in it is
ever unpickled. The history is saved whole: a million steps are 4 to 8 MB, for which training waits
some 20 ms (measured on two busy cores), ten million steps a quarter of a second.

What is random in the loop follows from the key and the number of the step, so that a run that goes
on from a checkpoint ends with the bits of one that was never disturbed.
"""

import concurrent.futures
import contextlib
import json
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, PyTree

from fnn import requirements
from fnn.locks import locked
from fnn.training.loop import History, Progress
from fnn.training.snapshot import Position, Snapshot


class Checkpoints(NamedTuple):
    """Where a training is kept, how often, and how many of its checkpoints.

    Training waits while the carry is copied, 30 ms for a network of a million parameters with Adam
    and a quarter of a second for ten million (measured on two busy cores); with a minute in
    between that is less than 1 %. One more is made at the end, whatever the reason. The one of the
    lowest validation loss is kept besides the last. On a full disk training goes on, with a
    warning, and what was written before stays.

    Attributes:
        folder: new, empty, or of the same job.
        seconds: between two checkpoints, at least; 0 for one whenever `fit` looks.
        keep: how many of the last ones stay, at least 1.
    """

    folder: str | Path
    seconds: float = 60.0
    keep: int = 3


class _Mark(NamedTuple):
    """By which a snapshot is told from the others of its run, without being held."""

    steps: int
    rounds: int


def _mark(snapshot: Snapshot) -> _Mark:
    return _Mark(int(snapshot.progress.step), len(snapshot.history.steps))


@contextlib.contextmanager
def checkpointed(
    checkpoint: str | Path | Checkpoints | None,
    begin: Snapshot,
    arrays: Mapping[str, PyTree],
    terms: Mapping[str, Any],
) -> Generator[tuple[Snapshot, Callable[[Snapshot], None]]]:
    """A run that is kept in a folder, if there is one.

    Args:
        checkpoint: the folder.
        begin: the run before its first step.
        arrays: what the run is made of; paths, shapes and dtypes make it the same job.
        terms: plain values, and perhaps a key, that make it the same job.

    Yields:
        Where to go on, and a function to be called with every new snapshot.

    Raises:
        ValueError: if the folder cannot be used or holds anything else, nothing in it changed.
    """
    if checkpoint is None:
        yield begin, lambda _: None
        return
    options = checkpoint if isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
    if options.keep < 1 or not options.seconds >= 0:
        raise ValueError(f"fit: expected Checkpoints of keep >= 1 and seconds >= 0, got {options}")
    _orbax()
    folder = Path(options.folder).absolute()
    with _opened(folder, _described(arrays, terms)):
        keeper = _Keeper(folder, options)
        try:
            yield keeper.newest(begin), keeper.offer
        except BaseException as error:
            keeper.close(save=jax.process_count() == 1)  # the other processes may be gone
            if keeper.saved is not None:
                error.add_note(
                    f"fit: the {keeper.saved.steps} steps before that are kept in "
                    f"{folder}; the same call goes on from there"
                )
            raise
        keeper.close()


# The folder ---------------------------------------------------------------------------------------

_JOB, _LOCK, _MARK = "job.json", "lock", "a job of fnn.fit"
_LEAVING = ".leaving"


@contextlib.contextmanager
def _opened(folder: Path, job: dict[str, Any]) -> Generator[None]:
    """The folder for this process and this job alone; the first process looks after it."""
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
        if not _agreed(problem is None):
            raise problem or ValueError(
                "fit: the first process says what is wrong with checkpoint="
            )
        yield


def _stored(folder: Path) -> dict[str, Any] | None:
    """The job of a folder, if it has one; if it has anything else, an error."""
    file, there = folder / _JOB, sorted(path.name for path in folder.iterdir())
    if not file.exists():
        if set(there) - {_LOCK, f"{_JOB}.tmp"}:
            raise ValueError(
                f"fit: expected {folder} to be empty or to hold checkpoints of this job, got "
                f"{', '.join(there[:5])}{', ...' * (len(there) > 5)}; try a new folder"
            )
        return None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return dict(json.loads(file.read_text())[_MARK])
    raise ValueError(
        f"fit: expected {file} to describe a job of fit, got another file, or a damaged one; try a "
        "new folder"
    )


def _require_alone(folder: Path, lock: Any) -> None:
    if not locked(lock):
        raise ValueError(
            f"fit: expected {folder} for this process alone, got one in which another trains; try "
            "a new folder, or wait for it"
        )


def _require_same(folder: Path, job: dict[str, Any]) -> None:
    """Compares what the checkpoints are of; without a checkpoint the job is written down anew."""
    theirs, mine = _stored(folder), json.loads(json.dumps(job))
    if theirs is not None and _numbers(folder):
        names = [name for name in theirs | mine if theirs.get(name) != mine.get(name)]
        if names:
            said = [f"{n} {theirs.get(n, 'absent')}, got {mine.get(n, 'absent')}" for n in names]
            raise ValueError(
                f"fit: expected the job whose checkpoints are in {folder}: {'; '.join(said[:4])}"
                f"{'; ...' * (len(said) > 4)}; try a new folder, or the arguments of that job"
            )
        return
    beside = folder / f"{_JOB}.tmp"
    beside.write_text(json.dumps({_MARK: job}, indent=1))
    os.replace(beside, folder / _JOB)


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


# What a job is ------------------------------------------------------------------------------------


def _described(arrays: Mapping[str, PyTree], terms: Mapping[str, Any]) -> dict[str, Any]:
    """Every leaf by its path, and the terms."""
    leaves = {name: _kind(leaf) for name, leaf in leaves_by_path(arrays).items()}
    plain = {
        name: f"{jax.random.key_impl(term)}{_data(term).tolist()}" if _is_array(term) else term
        for name, term in terms.items()
    }
    return leaves | plain


def leaves_by_path(trees: Mapping[str, PyTree]) -> dict[str, Any]:
    """Leaves by their paths, such as params['weight'].

    Args:
        trees: by their names.

    Returns:
        The leaves in the order of the trees.
    """
    leaves = jax.tree.leaves_with_path(dict(trees))
    return {path[0].key + jax.tree_util.keystr(path[1:]): leaf for path, leaf in leaves}


def _kind(leaf: Any) -> str:
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"


def _is_array(term: Any) -> bool:
    return isinstance(term, jax.Array | np.ndarray)


def _data(leaf: Any) -> Any:
    """The leaf as numbers: a typed key by its data."""
    typed = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if typed else leaf


# One checkpoint after the other -------------------------------------------------------------------


class _Keeper:
    """Saves what it is offered when it is time, in the background and one at a time."""

    def __init__(self, folder: Path, options: Checkpoints) -> None:
        self.folder, self.options = folder, options
        self.checkpointer = _orbax().StandardCheckpointer()
        self.waiting = concurrent.futures.ThreadPoolExecutor(1)
        self.writing: tuple[concurrent.futures.Future[None], _Mark] | None = None
        self.offered: Snapshot | None = None
        self.saved: _Mark | None = None
        self.number = max(_numbers(folder), default=0)
        self.losses: dict[int, float] = {}
        self.clock = time.monotonic()
        self._sweep()

    def newest(self, begin: Snapshot) -> Snapshot:
        """The newest checkpoint that is whole, or the beginning where there is none at all."""
        damaged, found = [], None
        for number in reversed(_numbers(self.folder)):
            try:
                about = self._about(number)
                if found is None:
                    found = self._read(number, about, begin)
                self._rank(number, about["loss"])
            except Exception as error:
                if found is None:
                    damaged.append(f"{number} ({_brief(error)})")
        said = (
            f"fit: expected whole checkpoints in {self.folder}, got damaged: {', '.join(damaged)}"
        )
        if damaged and found is None:
            raise ValueError(f"{said}, and none that is whole; try a new folder")
        if found is None:
            return begin
        self.saved = _mark(found)
        if damaged:
            said += f"; going on from the one after {self.saved.steps} steps"
            warnings.warn(said, stacklevel=5)
        return found

    def offer(self, snapshot: Snapshot) -> None:
        """Saves a snapshot if it is time and the last one is written."""
        self.offered = snapshot
        if self.writing is not None and self.writing[0].done():
            self._finish()
        due = self.writing is None and time.monotonic() - self.clock >= self.options.seconds
        if _agreed(due):
            self._save(snapshot)

    def close(self, *, save: bool = True) -> None:
        """Saves the last snapshot, if it is not, and waits until it is written."""
        self._finish()
        if save and self.offered is not None and _mark(self.offered) != self.saved:
            self._save(self.offered)
            self._finish()
        self.waiting.shutdown()
        self.checkpointer.close()

    def _save(self, snapshot: Snapshot) -> None:
        self._finish()
        self.number += 1
        progress = leaves_by_path(snapshot.progress._asdict())
        weak = [name for name, leaf in progress.items() if jax.typeof(leaf).weak_type]
        progress = {name: _data(leaf) for name, leaf in progress.items()}
        history, loss = leaves_by_path(snapshot.history._asdict()), _loss(snapshot)
        about = {
            "position": snapshot.position._asdict(),
            "fraction": snapshot.fraction,
            "loss": loss,
            "history": {name: [str(a.dtype), *a.shape] for name, a in history.items()},
            "validation": list(snapshot.history.validation),
            "weak": weak,
            "sums": _sums(progress, history),
        }
        text = json.dumps(about, default=_spelled)
        arrays = {name: a for name, a in (progress | history).items() if a.size}  # for orbax
        try:
            self.checkpointer.save(
                self.folder / str(self.number),
                arrays,
                custom_metadata={"text": text, "sum": zlib.crc32(text.encode())},
            )
        except Exception as error:
            self._failed(error, _mark(snapshot))
        else:
            self._rank(self.number, loss)
            written = self.waiting.submit(self.checkpointer.wait_until_finished)
            self.writing = written, _mark(snapshot)
        self.clock = time.monotonic()

    def _rank(self, number: int, loss: float | None) -> None:
        if loss is not None:
            self.losses[number] = loss

    def _finish(self) -> None:
        """Waits until the last one is written, and deletes those that need not stay."""
        if self.writing is None:
            return
        (written, mark), self.writing = self.writing, None
        error = written.exception()
        if error is not None:
            self._failed(error, mark)
            return
        self.saved = mark
        numbers = _numbers(self.folder)
        ranked = sorted(set(numbers) & set(self.losses), key=lambda n: self.losses[n])
        leaving = set(numbers) - set(numbers[-self.options.keep :]) - set(ranked[:1])
        for number in leaving if jax.process_index() == 0 else ():
            os.replace(self.folder / str(number), self.folder / f"{number}{_LEAVING}")
        self._sweep()

    def _failed(self, error: BaseException, mark: _Mark) -> None:
        """Says so, and goes on: the parameters in memory are worth more than those on disk."""
        with contextlib.suppress(Exception):
            self.checkpointer.close()
        self.checkpointer = _orbax().StandardCheckpointer()
        self.losses.pop(self.number, None)
        self._sweep()
        warnings.warn(
            f"fit: the checkpoint after {mark.steps} steps could not be written "
            f"to {self.folder} ({_brief(error)}); training goes on, and those "
            "written before stay. Try to make room",
            stacklevel=5,
        )

    def _sweep(self) -> None:
        """Deletes what need not stay, and what a save left that did not come to its end."""
        if jax.process_index() == 0:
            for ending in (_LEAVING, ".orbax-checkpoint-tmp*"):
                for path in self.folder.glob(f"*{ending}"):
                    shutil.rmtree(path, ignore_errors=True)

    def _about(self, number: int) -> dict[str, Any]:
        about = self.checkpointer.metadata(self.folder / str(number)).custom_metadata
        if about["sum"] != zlib.crc32(about["text"].encode()):
            raise ValueError("its description is not what was written")
        return json.loads(about["text"])

    def _read(self, number: int, about: dict[str, Any], begin: Snapshot) -> Snapshot:
        fresh = {
            name: jnp.asarray(a) for name, a in leaves_by_path(begin.progress._asdict()).items()
        }
        progress = {name: _data(leaf) for name, leaf in fresh.items()}
        kinds = about["history"].items()
        history = {name: np.zeros(shape, jnp.dtype(dtype)) for name, (dtype, *shape) in kinds}
        places = {name: _place(a) for name, a in (progress | history).items() if a.size}
        read = progress | history | self.checkpointer.restore(self.folder / str(number), places)
        sums = _sums({n: jnp.asarray(read[n]) for n in progress}, {n: read[n] for n in history})
        wrong = [name for name, total in sums.items() if total != about["sums"][name]]
        if wrong:
            raise ValueError(f"{', '.join(wrong[:4])} are not what was written")
        leaves = [_as(leaf, read[name], name in about["weak"]) for name, leaf in fresh.items()]
        validation = {name: read[f"validation[{name!r}]"] for name in about["validation"]}
        return Snapshot(
            Progress(**jax.tree.unflatten(jax.tree.structure(begin.progress._asdict()), leaves)),
            History(read["value"], read["steps"], validation),
            Position(**_unspelled(about["position"])),
            about["fraction"],
        )


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}".splitlines()[0]


def _agreed(due: bool) -> bool:
    """What the first process says, for clocks differ."""
    if jax.process_count() == 1:
        return due
    return bool(multihost_utils.broadcast_one_to_all(np.array(due)))


def _loss(snapshot: Snapshot) -> float | None:
    """The validation loss of these very parameters, if it was looked at and is a number."""
    steps, losses = snapshot.history.steps, snapshot.history.validation.get("loss", np.zeros(0))
    if not len(losses) or steps[-1] != int(snapshot.progress.step):
        return None
    return float(losses[-1]) if np.isfinite(losses[-1]) else None


def _place(leaf: Any) -> Any:
    """Where a leaf is restored to: where the fresh one was put, on however many devices."""
    if isinstance(leaf, jax.Array) and leaf.committed:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.empty(leaf.shape, leaf.dtype)


def _as(leaf: Array, value: Any, weak: bool) -> Array:
    """A restored leaf in the type of the fresh one, a typed key or weakly typed."""
    if _data(leaf) is not leaf:
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
    value = jnp.asarray(value)
    if weak and jax.typeof(leaf).weak_type:
        return jax.vmap(jax.lax.full_like)(leaf.ravel(), value.ravel()).reshape(leaf.shape)
    return value


def _spelled(value: Any) -> dict[str, str]:
    """Bytes in JSON."""
    if not isinstance(value, bytes):
        raise TypeError(
            "fit: expected an iterator whose get_state() gives bytes or plain values, got "
            f"{type(value).__name__} in it; try an iterator without get_state and set_state, which "
            "is gone through again"
        )
    return {"bytes": value.decode("latin-1")}


def _unspelled(position: dict[str, Any]) -> dict[str, Any]:
    state = position["state"]
    if isinstance(state, dict) and set(state) == {"bytes"}:
        position["state"] = state["bytes"].encode("latin-1")
    return position


# Sums by which damage is noticed ------------------------------------------------------------------


def _sums(fixed: Mapping[str, Array], growing: Mapping[str, np.ndarray]) -> dict[str, int]:
    """A sum over the bits of each array; those of one shape are summed where they are."""
    sums = {name: int(total) for name, total in _sums_of_words(dict(fixed)).items()}
    return sums | {name: zlib.crc32(a.view(np.uint8).data) for name, a in growing.items()}


@jax.jit
def _sums_of_words(arrays):
    return jax.tree.map(_sum_of_words, arrays)


def _sum_of_words(a: Array) -> Array:
    """Words times odd numbers, modulo 2^32: no bit can flip unseen, on however many devices."""
    if jnp.iscomplexobj(a):
        a = jnp.stack([a.real, a.imag], -1)
    if a.dtype == bool:
        a = a.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(a, jnp.dtype(f"uint{8 * min(a.dtype.itemsize, 4)}"))
    index, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits.astype(jnp.uint32) * (2 * index + 1), dtype=jnp.uint32)


def _orbax() -> Any:
    """Orbax's checkpointers, which are an extra."""
    return requirements.load("fit(checkpoint=)", "orbax.checkpoint")
