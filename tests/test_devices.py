"""Small programs run on one thread of XLA and of LAPACK, large ones on all."""

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg  # loads its library
import threadpoolctl

import fnn
from fnn import devices, flops


def library(home):
    """The controller of the OpenBLAS that lies in a folder."""
    assert scipy.linalg
    found = threadpoolctl.ThreadpoolController().lib_controllers
    return next(one for one in found if home in one.filepath)


SCIPYS, NUMPYS = library("scipy.libs"), library("numpy.libs")


@pytest.fixture(autouse=True)
def two_threads():
    """Two threads of LAPACK before and after, however many cores there are."""
    usual = SCIPYS.num_threads
    SCIPYS.set_num_threads(2)
    yield
    assert SCIPYS.num_threads == 2
    SCIPYS.set_num_threads(usual)
    devices.one_thread_below(*devices.Borders())


def look(seen):
    """Notes the threads of both libraries while a program runs."""

    def note(_):
        seen.append((SCIPYS.num_threads, NUMPYS.num_threads))
        return np.zeros(())

    return jax.pure_callback(note, jax.ShapeDtypeStruct((), float), 0.0)


def threads_within(compile):
    """The threads while a program with a factorization runs."""
    seen = []
    program = compile(lambda matrix: (jnp.linalg.cholesky(matrix), look(seen)))
    jax.block_until_ready(program(jnp.eye(3)))
    return seen


ONE, ALL = [(1, NUMPYS.num_threads)], [(2, NUMPYS.num_threads)]


def test_a_random_key_hides_no_program():
    seen = []
    program = devices.jit(
        lambda matrix, key: (jnp.linalg.cholesky(matrix), look(seen), jax.random.normal(key))
    )
    jax.block_until_ready(program(jnp.eye(3), jax.random.key(0)))
    assert seen == ONE


def test_a_small_factorization_has_one_thread_and_a_large_one_all():
    assert threads_within(jax.jit) == ALL
    assert threads_within(devices.jit) == ONE
    devices.one_thread_below(elementwise=1e6, factorizations=8.9)  # 27 / 3 flops are not below it
    assert threads_within(devices.jit) == ALL


def test_it_can_be_switched_off():
    devices.one_thread_below(0, 0)
    assert threads_within(devices.jit) == ALL
    for wrong in (-1.0, np.nan):
        with pytest.raises(ValueError, match=r"expected factorizations to be .* got .*; try 0"):
            devices.one_thread_below(0, wrong)


def test_what_was_traced_before_has_the_same_threads():
    assert threads_within(lambda fn: devices.compiled(jax.jit(fn).trace(jnp.eye(3)))) == ONE


def test_a_program_without_a_factorization_leaves_lapack_alone():
    seen = []
    jax.block_until_ready(devices.jit(lambda x: (x + 1, look(seen)))(jnp.ones(3)))
    assert seen == ALL


def test_threads_are_back_after_an_error():
    def broken(matrix):
        def fail(_):
            raise KeyError("broken")

        return jnp.linalg.cholesky(matrix), jax.pure_callback(fail, jnp.zeros(()), 0.0)

    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        jax.block_until_ready(devices.jit(broken)(jnp.eye(3)))


def in_a_thread(fn):
    """What a function returns in a thread of Python's own."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(fn).result()


def test_other_threads_of_python_have_one_thread_of_lapack():
    """Newer releases of threadpoolctl listen to the first alone that sets a number."""
    assert threads_within(devices.jit) == ONE
    assert in_a_thread(lambda: threads_within(devices.jit)) == ONE
    assert in_a_thread(lambda: SCIPYS.num_threads) == 2


def test_whoever_ends_last_gives_the_threads_back():
    step, is_open, may_end = devices.jit(jnp.linalg.cholesky), threading.Event(), threading.Event()

    def hold():
        with devices.lapack_restored():
            is_open.set()
            may_end.wait(60)

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(hold)
        is_open.wait(60)
        try:
            assert step(4 * jnp.eye(1200)).is_ready(), "a block of another thread is none of ours"
            assert SCIPYS.num_threads == 1
        finally:
            may_end.set()
        other.result()
    assert SCIPYS.num_threads == 2


def test_blocks_may_end_in_any_order():
    one, other = devices.lapack_restored(), devices.lapack_restored()
    assert not one.__enter__()
    assert other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    with devices.lapack_restored() as nested:
        assert not nested


def test_nothing_is_brought_to_the_device():
    program = """
        import jax
        import jax.numpy as jnp
        from fnn import devices
        x = jnp.eye(2)
        with jax.transfer_guard("disallow"):
            found = devices.jit(jnp.linalg.cholesky)(x)
        print(found[0, 0])
    """
    run_alone(program, expected="1.0")


def test_fit_has_one_thread_and_its_callbacks_all():
    inside, outside = [], []

    def update(grad, state, params=None):
        del params
        noted = jnp.linalg.cholesky(jnp.eye(3))[0, 0] + look(inside)
        return jax.tree.map(lambda g: -0.1 * g * noted.astype(g.dtype), grad), state

    x = jnp.arange(4.0)
    fnn.fit(
        optax.GradientTransformation(lambda _: (), update),
        fnn.Objective(lambda w, x: w * x, lambda y, t: (y - t) ** 2),
        jnp.zeros(()),
        (x, 3 * x),
        steps=2,
        callback=lambda _: outside.append(SCIPYS.num_threads),
    )
    assert set(inside) == set(ONE)
    assert outside == [2, 2]


def test_results_are_those_of_jit():
    """Static and donated arguments, arguments by name, other shapes, other transformations."""

    def fn(x, power=2, *, scale):
        return scale * jnp.linalg.inv(x @ x.T + jnp.eye(len(x))) ** power

    options = {"static_argnames": "power"}
    ours, theirs = devices.jit(fn, **options), jax.jit(fn, **options)
    for size in (2, 3):
        x = jnp.arange(2.0 * size).reshape(size, 2)
        for args in ((x,), (x, 3)):
            np.testing.assert_allclose(ours(*args, scale=2.0), theirs(*args, scale=2.0), rtol=1e-12)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(lambda s: ours(x, scale=s)))(jnp.arange(2.0))[1], ours(x, scale=1.0)
    )
    grad = jax.grad(lambda s: ours(x, scale=s).sum())(1.0)
    np.testing.assert_allclose(grad, ours(x, scale=1.0).sum())
    np.testing.assert_allclose(jax.jit(lambda s: ours(x, scale=2.0) * s)(1.0), ours(x, scale=2.0))
    with jax.disable_jit():
        np.testing.assert_allclose(ours(x, scale=2.0), theirs(x, scale=2.0))
    donated = jnp.ones(3)
    devices.jit(lambda x: x + 1, donate_argnums=0)(donated)
    assert donated.is_deleted()

    @devices.jit
    def broken(x):
        raise ValueError(f"of the function itself, {x.shape}")

    with pytest.raises(ValueError, match="of the function itself"):
        broken(x)


@pytest.mark.parametrize("border", [0, 1e6])
def test_compiler_options_are_those_of_jit(border):
    """Within another jit JAX would refuse them; a caller need not know that it is within."""
    devices.one_thread_below(border, 0)
    options = {"xla_backend_optimization_level": 1}
    double = devices.jit(lambda x: 2 * x, compiler_options=options)
    x = jnp.ones(3)
    assert jax.eval_shape(double, x).shape == (3,)
    assert jax.eval_shape(lambda: double(x)).shape == (3,)
    for two in (double(x), jax.jit(double)(x), jax.jit(lambda: double(x))()):
        np.testing.assert_array_equal(two, 2.0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_has_no_such_option"):
        devices.jit(lambda x: x, compiler_options={"xla_has_no_such_option": 1})(x)


def test_one_trace_serves_both_the_count_and_the_program():
    traces = []

    @devices.jit
    def fn(x, y):
        traces.append(1)
        return x + y

    for number in (1, 2.5, 7):
        fn(jnp.ones(3), number)
    fn(jnp.zeros(3), 3)
    assert len(traces) == 2, "a whole number and a number"


def test_the_dearest_equation_is_found_in_loops_and_calls():
    def fn(a):
        def body(_, a):
            return jax.lax.cond(a[0, 0] > 0, jax.jit(lambda a: a @ a), lambda a: a, a)

        a = jax.lax.fori_loop(0, 9, body, a)
        batch = jax.vmap(jnp.linalg.cholesky)(jnp.stack([a] * 5))
        return batch + 1, jnp.tanh(a)

    dearest = flops.dearest(jax.make_jaxpr(fn)(jnp.eye(6)))
    assert dearest[:2] == (36 * 5, 6**3 / 3)


# What XLA and LAPACK may be like ------------------------------------------------------------------


def test_options_that_are_not_known_are_left_out(monkeypatch):
    known = {"xla_llvm_disable_expensive_passes": True}
    asked = known | {"xla_has_no_such_option": 1}
    monkeypatch.setenv("XLA_FLAGS", "")
    assert devices.compiler_options(asked) == known
    monkeypatch.setenv("XLA_FLAGS", "--xla_llvm_disable_expensive_passes=false")
    assert devices.compiler_options(asked) == {}


def run_alone(program, *, expected, python=sys.executable, **environment):
    """The standard error of a program that has to end well."""
    done = subprocess.run(
        [python, "-c", textwrap.dedent(program)],
        env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == expected, done.stderr
    return done.stderr


def test_lapack_is_found_in_an_environment_that_a_link_leads_to(tmp_path):
    link = tmp_path / "environment"
    link.symlink_to(sys.prefix, target_is_directory=True)
    program = """
        from fnn import devices
        with devices.lapack_restored() as nested:
            print(nested)
    """
    python = link / Path(sys.executable).relative_to(sys.prefix)
    run_alone(program, expected="False", python=python)  # True where there is nothing to restore


def test_xla_compiles_small_programs_for_one_thread(tmp_path):
    program = """
        import jax.numpy as jnp
        from fnn import devices
        def small(x): return x @ x
        def large(x): return x + 1
        def tiny(x): return jnp.linalg.cholesky(x)
        def long(x):
            for _ in range(5000):
                x = x + 1
            return jnp.linalg.cholesky(x)
        devices.jit(small)(jnp.ones((9, 9))).block_until_ready()
        devices.jit(tiny)(jnp.eye(9)).block_until_ready()
        devices.jit(long)(jnp.eye(9)).block_until_ready()
        devices.jit(large)(jnp.ones((1000, 1000))).block_until_ready()
        print("done")
    """
    run_alone(program, expected="done", XLA_FLAGS=f"--xla_dump_to={tmp_path}")
    for name in ("tiny", "long", "small", "large"):
        (options,) = (path.read_text() for path in tmp_path.glob(f"*.jit_{name}.*debug_options"))
        assert ("xla_cpu_multi_thread_eigen: false" in options) == (name != "large")
        assert ("xla_backend_optimization_level: 1" in options) == (name == "tiny")


def test_an_xla_that_cannot_be_held_to_one_thread_is_said_once():
    program = """
        import warnings
        import jax
        import jax.numpy as jnp
        known = jax.jit
        def jit(fn, **options):  # of a release without that option
            if "xla_cpu_multi_thread_eigen" in (options.get("compiler_options") or {}):
                return known(fn, compiler_options={"xla_has_no_such_option": True})
            return known(fn, **options)
        jax.jit = jit
        from fnn import devices
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(2):
                assert devices.jit(lambda x: x + 1)(jnp.ones(())) == 2
        print(*(str(one.message)[:66] for one in said))
    """
    run_alone(
        program, expected="devices: expected XLA to know the compiler option xla_cpu_multi_th"
    )


def test_a_lapack_that_threadpoolctl_does_not_know_is_left_alone():
    program = """
        import types
        import jax.numpy as jnp
        import threadpoolctl
        threadpoolctl.ThreadpoolController = lambda: types.SimpleNamespace(lib_controllers=[])
        import fnn
        from fnn import devices, rules
        assert devices.jit(jnp.linalg.cholesky)(4 * jnp.eye(2))[0, 0] == 2
        line = fnn.Objective(lambda w, x: w * x, lambda y, t: (y - t) ** 2)
        x = jnp.arange(4.0)
        print(fnn.fit(rules.newton(), line, jnp.zeros(()), (x, 3 * x), steps=1).params)
    """
    run_alone(program, expected="3.0")


def test_memory_of_intermediates_is_kept():
    """The kernel clears a page at its first touch: they are counted, not timed."""
    program = """
        import resource
        import jax.numpy as jnp
        from fnn import devices
        step = devices.jit(lambda a: jnp.tanh(jnp.tanh(a @ a) @ a).sum())
        a = jnp.ones((1000, 1000))
        def faults():
            step(a).block_until_ready()
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        first = [faults() for _ in range(5)][-1]
        print([faults() for _ in range(20)][-1] - first < 20 * 500)  # half of one matrix
    """
    names = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"
    run_alone(program, expected="True", **dict.fromkeys(names, ""))
