"""Where a program runs: the devices of a mesh, and the threads of a CPU.

**Meshes.** Where examples are split over devices, by `fit(sharding=...)` or by `jax.device_put` in
a loop of your own, XLA splits what is computed from them: sums over examples become sums over
devices, and nothing needs to be said. What XLA cannot know is said here, where rows of different
examples meet: every traced array tells its mesh, and without a mesh these functions do nothing.

**Threads.** On a CPU a program uses two pools of threads: XLA's own, and LAPACK's, which is the
OpenBLAS that SciPy brings and JAX calls. Both cut up work that one core could have done while the
cores meet, and both wait in vain for threads that do not run while other processes compute: a fit
of milliseconds then takes seconds. So where the dearest elementwise equation of a program is small,
XLA runs its loops uncut, and where its dearest factorization is, LAPACK has one thread; large ones
have all threads, and products too, which XLA cuts up well.
`benchmarks/threads.py` measures where the borders lie. `fit` and races see to it by themselves; in
a loop of your own write

    @fnn.devices.jit        # in place of jax.jit

LAPACK has its threads back when the call has ended, and NumPy's own library is never touched (where
NumPy and SciPy share one, as from conda, neither is). `devices.one_thread_below(0, 0)` switches all
of it off. On GPUs and TPUs `devices.jit` is `jax.jit`.

**Convolutions.** XLA computes a convolution well in one order of its axes, which it finds by itself
except in the body of a loop, where a convolution network trains up to twenty times as slowly. So
`devices.jit`, `fit` and races write all of a program in this order where a loop has another.

**Memory.** XLA asks for the memory of large intermediates anew in every call, and glibc gives it
back to the kernel, which clears each page when it comes again: half of a Levenberg-Marquardt step
among 1000 rows. So at the first call of `devices.jit`, `fit` or a race on a CPU glibc is told to
keep up to 1 GiB. Its own variables, MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_ and
GLIBC_TUNABLES, come first.

**Mappings.** Every program that JAX keeps holds memory mappings, of which Linux grants a process a
number; before they run out all programs are forgotten, with a warning (`fnn.mappings`).
"""

import contextlib
import ctypes
import functools
import inspect
import itertools
import os
import platform
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import threadpoolctl
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from fnn import flops, mappings, programs

__all__ = [
    "Borders",
    "compiled",
    "compiler_options",
    "count",
    "everywhere",
    "is_traced",
    "jit",
    "lapack_restored",
    "one_thread_below",
    "traced",
]
__dir__ = __all__.copy

# --- meshes -------------------------------------------------------------------------------------


def count(tree: PyTree) -> int:
    """The number of devices of the mesh on which arrays lie.

    Args:
        tree: arrays, traced or not.

    Returns:
        1 without a mesh.

    Example:
        >>> import jax.numpy as jnp
        >>> count(jnp.ones(3))
        1
    """
    return max([1, *(_mesh(leaf).size for leaf in jax.tree.leaves(tree))])


def everywhere(tree: PyTree) -> PyTree:
    """The same arrays, whole on every device of their mesh.

    Args:
        tree: arrays, traced or not.

    Returns:
        The arrays; as they came without a mesh.

    Example:
        >>> import jax.numpy as jnp
        >>> array = jnp.ones(3)
        >>> everywhere(array) is array
        True
    """

    def whole(leaf: Array) -> Array:
        mesh = _mesh(leaf)
        if mesh.size <= 1:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(whole, tree)


def _mesh(leaf: Any) -> jax.sharding.AbstractMesh:
    """The mesh over which an array is split; an empty one where it is not."""
    return jax.typeof(leaf).sharding.mesh


# --- threads ------------------------------------------------------------------------------------


class Borders(NamedTuple):
    """From how many flops on a program is large.

    Attributes:
        elementwise: of its dearest equation that is neither a product nor a factorization.
        factorizations: of its dearest factorization.
    """

    # benchmarks/threads.py measured both.
    elementwise: float = 1e6
    factorizations: float = 1.8e9


def one_thread_below(elementwise: float, factorizations: float) -> Borders:
    """Sets the borders between small programs and large ones, for this process.

    Args:
        elementwise: flops of the dearest equation of a program that is neither a product nor a
            factorization, at least 0; below this XLA does not cut up the program's loops. 0 leaves
            XLA as it is.
        factorizations: flops of its dearest factorization, at least 0; below this LAPACK runs it on
            one thread. 0 leaves LAPACK as it is.

    Returns:
        The borders until now.

    Raises:
        ValueError: if a number is negative or not a number.

    Example:
        >>> before = one_thread_below(0, 0)  # all threads for every program, as in JAX alone
        >>> now = one_thread_below(*before)
    """
    global _borders
    for name, border in (("elementwise", elementwise), ("factorizations", factorizations)):
        if not border >= 0:
            raise ValueError(
                f"one_thread_below: expected {name} to be a number of flops, at least 0, got "
                f"{border}; try 0, which leaves all programs on all threads"
            )
    before, _borders = _borders, Borders(elementwise, factorizations)
    return before


def jit(fn: Callable, **options: Any) -> Callable:
    """`jax.jit`, with small programs on one thread of a CPU, and fast convolutions in its loops.

    What is small is decided for each set of shapes, by the counted flops of the dearest equation. A
    small program with a factorization is waited for, because LAPACK has its threads back when the
    call has ended (within `lapack_restored` it is not waited for); all others are dispatched as by
    `jax.jit`. One of few numbers and equations compiles in half of the time, by XLA's older code.

    Args:
        fn: the function.
        **options: those of `jax.jit`.

    Returns:
        The compiled function. Inside of another `jit`, a `vmap` or a `grad` it is `jax.jit(fn)`.

    Example:
        >>> import jax.numpy as jnp
        >>> solve = jit(jnp.linalg.solve)
        >>> print(solve(jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([3.0, 3.0])))
        [1. 1.]
    """
    key_of, known = _keys(fn, options), {}
    on_all = jax.jit(fn, **options)
    bare = {name: option for name, option in options.items() if name != "compiler_options"}
    nested = jax.jit(fn, **bare)  # JAX takes compiler options in the outermost jit alone

    @functools.cache  # XLA is not asked for its options before a call
    def for_cpu(small: bool, tiny: bool, reorders: bool) -> Callable:
        written = programs.with_fast_convolutions(fn) if reorders else fn
        if not small:
            return jax.jit(written, **options) if reorders else on_all
        asked = _options_for(small, tiny) | dict(options.get("compiler_options") or {})
        return jax.jit(written, **bare, compiler_options=asked)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jax.default_backend() != "cpu" or _is_jit_disabled():
            return (nested if is_traced((args, kwargs)) else on_all)(*args, **kwargs)
        key = key_of(args, kwargs)
        if key is None:
            return nested(*args, **kwargs)
        _keep_memory()
        if key not in known:
            if next(_programs) % 16 == 0:  # to count mappings takes up to 0.1 s
                mappings.spare()
            jaxpr = nested.trace(*args, **kwargs).jaxpr
            known[key] = flops.dearest(jaxpr), programs.has_slow_convolutions(jaxpr)
        dearest, reorders = known[key]
        run = for_cpu(*_size(dearest), reorders)
        try:
            return _held(run, dearest)(*args, **kwargs)
        except ValueError:
            # Either fn raised it, and does so again below, or JAX: compiler options are for the
            # outermost jit alone, and one around this call that traces no argument is not seen.
            pass
        return nested(*args, **kwargs)

    return call


def traced(fn: Callable, *args: Any, **options: Any) -> jax.stages.Traced:
    """A function traced for `compiled`, on a CPU with fast convolutions in its loops.

    Args:
        fn: the function.
        *args: its arguments, or their shapes and dtypes.
        **options: those of `jax.jit`.

    Returns:
        What `jax.jit(fn, **options).trace(*args)` returns.

    Example:
        >>> import jax.numpy as jnp
        >>> print(compiled(traced(lambda x: 2 * x, jnp.ones(2)))(jnp.ones(2)))
        [2. 2.]
    """
    first = jax.jit(fn, **options).trace(*args)
    if jax.default_backend() != "cpu" or not programs.has_slow_convolutions(first.jaxpr):
        return first
    return jax.jit(programs.with_fast_convolutions(fn), **options).trace(*args)


def compiled(
    traced: jax.stages.Traced, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """A traced function, compiled for the threads that its size deserves.

    Args:
        traced: what `traced(fn, *args)` returns, or `jax.jit(fn).trace(*args)`.
        options: compiler options, by their names; those that are not known are left out.

    Returns:
        The compiled function of the traced arguments; it holds LAPACK's threads as `jit` does.

    Example:
        >>> import jax.numpy as jnp
        >>> double = compiled(jax.jit(lambda x: 2 * x).trace(jnp.ones(2)))
        >>> print(double(jnp.ones(2)))
        [2. 2.]
    """
    if jax.default_backend() == "cpu":
        _keep_memory()
    dearest = flops.dearest(traced.jaxpr)
    chosen = _options_for(*_size(dearest)) | compiler_options(options or {})
    return _held(traced.lower().compile(compiler_options=chosen), dearest)


@contextlib.contextmanager
def lapack_restored() -> Generator[bool]:
    """LAPACK has its number of threads back when the last such block of the process ends.

    It stands around a loop of small steps that factorize: within it no program of `jit` is waited
    for, so wait for the last results yourself before it ends, or they may be computed on all of
    LAPACK's threads. From the first small step on LAPACK has one thread within, for all that it
    does. A block ends in the thread of Python that opened it.

    Yields:
        Whether another such block is open in the same thread of Python, or there is nothing to
        restore.

    Example:
        >>> import jax.numpy as jnp
        >>> step, x = jit(lambda x: jnp.linalg.solve(jnp.eye(2) + x, x)), jnp.eye(2)
        >>> with lapack_restored():
        ...     for _ in range(3):
        ...         x = step(x)
        ...     x = jax.block_until_ready(x)
        >>> print(x)
        [[0.25 0.  ]
         [0.   0.25]]
    """
    library = _lapack()
    if library is None:
        yield True
        return
    with _lock:
        _usual.append(_usual[0] if _usual else library.num_threads)
    around = getattr(_thread, "blocks", 0)
    _thread.blocks = around + 1
    try:
        yield around > 0
    finally:
        _thread.blocks -= 1
        with _lock:
            usual = _usual.pop()
            if not _usual:
                _set_lapack_threads(usual)


def compiler_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those compiler options that this XLA knows, and that the process leaves open.

    Args:
        options: by their names, for a CPU.

    Returns:
        The options without those that are not known and without those that stand in the variable
        XLA_FLAGS, which come first; none on other devices.

    Example:
        >>> compiler_options({"xla_has_no_such_option": True})
        {}
    """
    if jax.default_backend() != "cpu":
        return {}
    return {
        name: value
        for name, value in options.items()
        if not _is_set(name) and _refusal(name, value) is None
    }


# A second-order rule on few numbers is some thousand small equations. With XLA's older code for
# fusions it compiles in half of the time and runs as fast; but a tanh network of 64 units would run
# at 0.6 of its speed, and Levenberg-Marquardt on 40 layers of 4 units compile in 1.7 of its time.
_SOON = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
_TINY = flops.Dearest(elementwise=1024, factorization=0, equations=4096)
_borders = Borders()
_lock, _thread = threading.RLock(), threading.local()
_programs = itertools.count(1)
_concrete: set[type] = set()  # classes of arrays that hold numbers, as far as they were seen
_usual: list[int] = []  # LAPACK's number of threads, once for each open `lapack_restored`


def _is_set(name: str) -> bool:
    """Whether the variable XLA_FLAGS says something about an option."""
    return name in os.environ.get("XLA_FLAGS", "")


def _size(dearest: flops.Dearest) -> tuple[bool, bool]:
    """Whether a program is small, and whether it is so small that most of it is compiling."""
    small = dearest.elementwise < _borders.elementwise
    few = dearest.elementwise <= _TINY.elementwise and dearest.equations <= _TINY.equations
    return small, small and few and dearest.factorization > 0


def _options_for(small: bool, tiny: bool) -> dict[str, Any]:
    """XLA's options for a program of this size."""
    return (_one_thread_of_xla() if small else {}) | (compiler_options(_SOON) if tiny else {})


@functools.cache
def _refusal(name: str, value: Any) -> str | None:
    """What XLA says against an option. It is asked, because its options change with releases."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        return str(error)
    return None


@functools.cache
def _one_thread_of_xla() -> dict[str, Any]:
    """The options that hold a program to one thread of XLA, with a warning where there are none."""
    options = {"xla_cpu_multi_thread_eigen": False}
    for name, value in options.items():
        if jax.default_backend() == "cpu" and (refusal := _refusal(name, value)) is not None:
            warnings.warn(
                f"devices: expected XLA to know the compiler option {name}, got {refusal}; small "
                "programs run on all of its threads, and slowly beside busy processes. Try a "
                "release of JAX that fnn was tested with",
                stacklevel=4,
            )
    return compiler_options(options)


def is_traced(args: PyTree) -> bool:
    """Whether any array of a tree is being traced, by `jax.jit` or another transformation.

    Args:
        args: a tree.

    Returns:
        True where one has no numbers yet.

    Example:
        >>> is_traced(jax.random.key(0)), jax.jit(is_traced)(jax.numpy.ones(2)).item()
        (False, True)
    """
    return any(map(_is_tracer, jax.tree.leaves(args)))


def _is_tracer(leaf: Any) -> bool:
    """Whether a leaf is a traced array: those alone cannot go to the host."""
    if type(leaf) in _concrete or not isinstance(leaf, jax.Array):
        return False
    if not hasattr(leaf, "copy_to_host_async"):
        return True
    _concrete.add(type(leaf))
    return False


def _is_jit_disabled() -> bool:
    """Whether functions are run as they stand, as within `jax.disable_jit()`."""
    config: Any = jax.config  # its attributes know of `with jax.disable_jit()`, and no types
    return config.jax_disable_jit


def _held(run: Callable, dearest: flops.Dearest) -> Callable:
    """The compiled function with LAPACK on one thread, where its factorizations are small."""
    small = 0 < dearest.factorization < _borders.factorizations
    if not small or jax.default_backend() != "cpu":
        return run

    def held(*args: Any, **kwargs: Any) -> Any:
        with lapack_restored() as nested:
            _set_lapack_threads(1)
            results = run(*args, **kwargs)
            if not nested:  # all results are ready when the program ends, so one is waited for
                jax.block_until_ready(jax.tree.leaves(results)[-1:])
            return results

    return held


def _set_lapack_threads(number: int) -> None:
    """Sets the threads of LAPACK for the process, if its library is known."""
    if (library := _lapack()) is None:
        return
    # From release 3.8 on threadpoolctl ignores all Python threads but the first that asked.
    forget_who_asked = getattr(library, "clear_controlling_thread", lambda **_: None)
    with _lock:
        forget_who_asked(force=True)
        library.set_num_threads(number)
        forget_who_asked(force=True)


@functools.cache
def _keep_memory() -> None:
    """Tells glibc to keep up to 1 GiB of freed memory, unless the user told it otherwise."""
    variables = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in variables):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    for parameter in (trim_threshold, mmap_threshold):
        ctypes.CDLL(None).mallopt(parameter, 2**30)


@functools.cache
def _lapack() -> Any:
    """The controller of the OpenBLAS that lies beside SciPy, which JAX calls; None elsewhere."""
    try:
        import scipy.linalg  # loads the library, if JAX has not yet
    except ImportError:
        return None
    package = Path(scipy.__file__).resolve().parent  # an environment may be reached by a link
    homes = package, package.with_name("scipy.libs")
    for library in threadpoolctl.ThreadpoolController().lib_controllers:
        path = Path(library.filepath).resolve()
        if library.user_api == "blas" and any(home in path.parents for home in homes):
            return library
    return None


def _keys(fn: Callable, options: Mapping[str, Any]) -> Callable[[tuple, dict], Any]:
    """`key_of(args, kwargs)`: equal for calls of one program, None where an argument is traced."""
    names = options.get("static_argnames") or ()
    names = {names} if isinstance(names, str) else set(names)
    places = options.get("static_argnums")
    places = {places} if isinstance(places, int) else set(places or ())
    if names or places:
        parameters = list(inspect.signature(fn).parameters)
        names |= {parameters[place] for place in places}
        places |= {place for place, name in enumerate(parameters) if name in names}

    def kind(leaf: Any) -> Any:  # of a number its type alone, for it is traced
        if type(leaf) in _concrete:
            return leaf.aval  # in a fifth of the time that shape and dtype take
        return (leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else type(leaf)

    def key_of(args: tuple, kwargs: dict) -> Any:
        traced, static = (args, kwargs), ()
        if places or names:
            arguments = [(place in places, arg) for place, arg in enumerate(args)]
            arguments += [(name in names, (name, arg)) for name, arg in sorted(kwargs.items())]
            traced = [arg for static, arg in arguments if not static]
            static = tuple(arg for static, arg in arguments if static)
        leaves, structure = jax.tree.flatten(traced)
        if any(map(_is_tracer, leaves)):
            return None
        return structure, tuple(map(kind, leaves)), static

    return key_of
