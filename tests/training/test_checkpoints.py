"""A training that is stopped anywhere and called again is the training that was never stopped."""

import itertools
import json
import os
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import layers, losses, rules
from fnn.training import Checkpoints, Stop, fit
from fnn.training.identity import identity_of
from fnn.training.job import Request, job_of
from tests.line import loss, model

ROOT = Path(__file__).parents[2]
KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.fold_in(KEY, 1), (10, 3))
TARGETS = INPUTS @ jnp.array([1.0, -2.0, 0.5]) + jax.random.normal(KEY, (10,))
DATA = INPUTS, TARGETS
START = {"weight": jnp.zeros(3), "bias": jnp.zeros(())}
RULE = optax.adam(0.1)

OBJECTIVE = fnn.Objective(model, loss)
MINI = {"batch_size": 3, "key": KEY, "validation": DATA}


class Interruption(Exception):
    """What ends a training on purpose."""


def after(rounds):
    """A callback that ends a training from without."""

    def callback(fitted):
        if len(fitted.history.steps) == rounds:
            raise Interruption

    return callback


def assert_same(one, other):
    """Every bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def numbers(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


# The same bits ------------------------------------------------------------------------------------

kills = runpy.run_path(str(ROOT / "benchmarks" / "soak" / "training_kills.py"))


@pytest.fixture(scope="module")
def undisturbed():
    return kills["train"]()


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """The trainings that are killed find what the first of them compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.mark.gate
@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("rounds", [2, 9, 23])
def test_a_training_that_is_killed_ends_with_the_same_bits(tmp_path, undisturbed, rounds):
    """Dropout, shuffled batches, patience, Levenberg-Marquardt; twenty kills are in the soak."""
    with kills["started"](tmp_path) as child:
        for said in child.stdout:
            if int(said) >= rounds and kills["newest"](tmp_path) > 0:  # written in the background
                child.kill()
                break
    assert undisturbed.stopped == Stop.PATIENCE
    assert len(undisturbed.history.steps) > rounds + 10
    assert kills["newest"](tmp_path) > 0
    assert kills["same"](kills["train"](tmp_path), undisturbed)


@pytest.mark.parametrize("rounds", [1, 4])
def test_a_training_goes_on_where_it_was_interrupted(tmp_path, rounds):
    options = MINI | {"epochs": 9, "every": 2, "patience": 6}
    whole = fit(RULE, OBJECTIVE, START, DATA, **options)
    options["checkpoint"] = tmp_path
    with pytest.raises(Interruption) as error:
        fit(RULE, OBJECTIVE, START, DATA, **options, callback=after(rounds))
    assert f"{8 * rounds} steps before that are kept" in " ".join(error.value.__notes__)
    assert_same(fit(RULE, OBJECTIVE, START, DATA, **options), whole)


def test_a_training_that_is_over_is_not_run_again(tmp_path):
    options = MINI | {"epochs": 5, "checkpoint": tmp_path}
    whole = fit(RULE, OBJECTIVE, START, DATA, **options)
    before = content(tmp_path)

    def update(updates, state, params=None):
        raise Interruption(updates, state, params)

    never = optax.GradientTransformation(RULE.init, update)
    assert_same(fit(never, OBJECTIVE, START, DATA, **options), whole)
    assert content(tmp_path) == before


@pytest.mark.filterwarnings(
    "ignore:fit. all steps were taken, and the value rose"
)  # batches differ
def test_a_training_that_is_over_goes_on_if_asked_for_more(tmp_path):
    longer = fit(RULE, OBJECTIVE, START, DATA, **MINI, steps=22)
    fit(RULE, OBJECTIVE, START, DATA, **MINI, steps=6, checkpoint=tmp_path)
    fitted = fit(RULE, OBJECTIVE, START, DATA, **MINI, steps=22, checkpoint=tmp_path)
    assert_same((fitted.params, fitted.history.value), (longer.params, longer.history.value))
    assert fitted.history.steps.tolist() == [4, 6, 8, 12, 16, 20, 22]
    with pytest.raises(ValueError, match=r"steps to be at least 22, .* got 21"):
        fit(RULE, OBJECTIVE, START, DATA, **MINI, steps=21, checkpoint=tmp_path)


def test_a_callback_is_asked_again_where_a_training_goes_on(tmp_path):
    rounds = []

    def enough(fitted):
        rounds.append(len(fitted.history.steps))
        return rounds[-1] == 3

    options = MINI | {"epochs": 9, "checkpoint": tmp_path, "callback": enough}
    stopped = fit(RULE, OBJECTIVE, START, DATA, **options)
    assert_same(fit(RULE, OBJECTIVE, START, DATA, **options), stopped)
    assert rounds == [1, 2, 3, 3]
    assert stopped.stopped == Stop.CALLBACK


def test_a_state_with_a_key_and_leaves_of_every_kind(tmp_path):
    """Typed keys, no numbers at all, names with slashes, half precision, weak types."""

    def init(params):
        return {"key": jax.random.key(7), "weak": jnp.asarray(0.5), "flag": jnp.array(True)}, params

    def update(updates, state, params=None):
        del params
        (own, before), step = state, jax.random.uniform(state[0]["key"])
        own = {
            "key": jax.random.fold_in(own["key"], 1),
            "weak": own["weak"] / 3,
            "flag": ~own["flag"],
        }
        return jax.tree.map(lambda g: -step.astype(g.dtype) * g * own["weak"], updates), (
            own,
            before,
        )

    rule = optax.GradientTransformation(init, update)
    start = {"a/b": jnp.ones(2, jnp.bfloat16), "ü.x": jnp.zeros((0, 3)), "": jnp.ones(())}
    objective = fnn.Objective(lambda p, x: p["a/b"].sum().astype(x.dtype) + p[""], loss)
    whole = fit(rule, objective, start, DATA, steps=8)
    begun = fit(rule, objective, start, DATA, steps=3, checkpoint=tmp_path)
    fitted = fit(rule, objective, start, DATA, steps=8, checkpoint=tmp_path)
    for one in (whole, begun, fitted):
        one.state[0]["key"] = jax.random.key_data(one.state[0]["key"])
    assert_same(fitted, whole)
    assert fitted.state[0]["weak"].weak_type == whole.state[0]["weak"].weak_type


# Streams ------------------------------------------------------------------------------------------

BATCHES = [(INPUTS[i : i + 2], TARGETS[i : i + 2]) for i in range(0, 9, 2)]
PASS = 8 * BATCHES  # 32 batches are trained on without a look, and then 8


class Listed(list):
    """A list that says which batch it gives."""

    def __init__(self, give):
        super().__init__(PASS)
        self.give = give

    def __iter__(self):
        for batch in super().__iter__():
            self.give()
            yield batch


class Shuffled:
    """Another order in each pass, by a generator that knows how often it was asked."""

    def __init__(self, give):
        self.rng, self.give = np.random.default_rng(0), give

    def __iter__(self):
        for i in self.rng.permutation(40):
            self.give()
            yield PASS[i]


def ending(give):
    """An iterator of two passes."""
    for batch in PASS * 2:
        give()
        yield batch


class Told:
    """An iterator without end that can be told where it is, as Grain's."""

    def __init__(self, give, spell=lambda place: place):
        self.place, self.give, self.spell = 0, give, spell

    def __iter__(self):
        return self

    def __next__(self):
        self.give()
        self.place += 1
        return BATCHES[self.place * self.place % 5]

    def get_state(self):
        return self.spell({"place": self.place})

    def set_state(self, state):
        self.place = (json.loads(state) if isinstance(state, bytes) else state)["place"]


def told_in_bytes(give):
    return Told(give, lambda state: json.dumps(state).encode())


STREAMS = {
    "a list": (Listed, {"epochs": 3}),
    "a list, cut short": (Listed, {"steps": 95}),
    "an iterable that shuffles": (Shuffled, {"epochs": 3}),
    "an iterator that ends": (ending, {"epochs": 3}),
    "an iterator with a state": (Told, {"steps": 70}),
    "one with a state in bytes": (told_in_bytes, {"steps": 66}),
}


def interrupting(at):
    """What raises where the batch after so many is given."""
    given = itertools.count()

    def give():
        if next(given) == at:
            raise Interruption

    return give


def with_places(stream):
    """A stream made anew, and where it was when it gave each batch, if it can tell."""
    places = []
    data = stream(lambda: places.append(getattr(data, "place", None)))
    return data, places


@pytest.mark.parametrize(("stream", "budget"), STREAMS.values(), ids=STREAMS)
def test_a_stream_goes_on_from_every_place(tmp_path, stream, budget):
    """Interrupted in a pass, between two segments or amid one, and between passes."""
    options = {"validation": DATA, "patience": 9, "every": 2, **budget}
    whole = fit(RULE, OBJECTIVE, START, stream(lambda: None), **options)
    for at in itertools.count(18, 18):
        folder = tmp_path / str(at)
        options["checkpoint"] = Checkpoints(folder, seconds=0)
        try:
            fit(RULE, OBJECTIVE, START, stream(interrupting(at)), **options)
        except Interruption as error:
            (steps,) = re.findall(r"the (\d+) steps before", " ".join(error.__notes__)) or [0]
            again, places = with_places(stream)
            assert_same(fit(RULE, OBJECTIVE, START, again, **options), whole)
            assert places[0] in (None, int(steps))
        else:
            break
    assert at > 3 * 18
    assert_same(fit(RULE, OBJECTIVE, START, stream(lambda: None), **options), whole)


def test_a_stream_that_has_become_shorter(tmp_path):
    fit(RULE, OBJECTIVE, START, BATCHES, steps=4, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="4 of which lie behind in this pass, got 2"):
        fit(RULE, OBJECTIVE, START, BATCHES[:2], steps=9, checkpoint=tmp_path)
    fit(RULE, OBJECTIVE, START, BATCHES, epochs=3, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="epochs to be at least 3"):
        fit(RULE, OBJECTIVE, START, BATCHES, epochs=2, checkpoint=tmp_path)


def test_a_state_that_cannot_be_written(tmp_path):
    with pytest.raises(
        TypeError, match=r"get_state\(\) gives bytes or plain values, got set in it"
    ):
        fit(RULE, OBJECTIVE, START, Told(lambda: None, lambda _: {1}), steps=4, checkpoint=tmp_path)


# What stays ---------------------------------------------------------------------------------------


def test_the_last_stay_and_the_best(tmp_path):
    other = INPUTS, 0.5 * TARGETS  # passed by on the way
    options = {"validation": other, "checkpoint": Checkpoints(tmp_path, seconds=0, keep=2)}
    rule = optax.sgd(0.1)
    for steps in range(1, 12):
        fitted = fit(rule, OBJECTIVE, START, DATA, steps=steps, **options)
    best = int(fitted.history.validation["loss"].argmin()) + 1
    assert 1 < best < 9
    assert numbers(tmp_path) == [best, 10, 11]


def test_a_checkpoint_in_so_many_seconds_and_one_at_the_end(tmp_path):
    for seconds, made in ((1e6, 1), (0, 4)):
        folder = tmp_path / str(seconds)
        options = {"steps": 4, "callback": lambda _: None}
        fit(
            RULE, OBJECTIVE, START, DATA, **options, checkpoint=Checkpoints(folder, seconds, keep=9)
        )
        assert 1 <= len(numbers(folder)) <= made


@pytest.mark.gate
def test_other_devices(tmp_path):
    """Begun on one device, gone on with on eight, ended on one."""
    run, drawn = tmp_path / "run", tmp_path / "data.npz"
    np.savez(drawn, *DATA)  # another process, of other flags, draws others in the last bits
    fit(RULE, OBJECTIVE, START, DATA, steps=4, checkpoint=run)
    program = """
        import sys
        import jax
        import numpy as np
        sys.path.insert(0, sys.argv[1])
        jax.config.update("jax_enable_x64", True)
        from tests.training.test_checkpoints import OBJECTIVE, RULE, START, fit
        assert len(jax.devices()) == 2
        mesh = jax.make_mesh((2,), ("examples",), axis_types=(jax.sharding.AxisType.Auto,))
        split, whole = jax.NamedSharding(mesh, jax.P("examples")), jax.NamedSharding(mesh, jax.P())
        data = jax.device_put(tuple(np.load(sys.argv[3]).values()), split)
        start = jax.device_put(START, whole)
        fitted = fit(RULE, OBJECTIVE, start, data, steps=8, checkpoint=sys.argv[2])
        assert len(fitted.params["weight"].devices()) == 2
    """
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(ROOT), str(run), str(drawn)],
        env=os.environ | flags,
        check=True,
    )
    fitted = fit(RULE, OBJECTIVE, START, DATA, steps=12, checkpoint=run)
    whole = fit(RULE, OBJECTIVE, START, DATA, steps=12)
    assert numbers(run) == [1, 2, 3]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), fitted, whole)


# Misuse -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder_of_a_job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    fit(RULE, OBJECTIVE, START, DATA, **MINI, patience=3, epochs=2, checkpoint=folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"params": {**START, "weight": jnp.zeros((3, 1))}},
            r"params\['weight'\] float64\[3\], got float64\[3, 1\]",
        ),
        ({"params": {"weight": START["weight"]}}, r"params\['bias'\] float64\[\], got absent"),
        ({"rule": optax.sgd(0.1, momentum=0.9)}, r"state\[0\]\.count int32\[\], got absent"),
        ({"data": (INPUTS[:9], TARGETS[:9])}, r"data\[0\] float64\[10, 3\], got float64\[9, 3\]"),
        ({"data": BATCHES, "batch_size": None}, r"data\[0\] float64\[10, 3\], got absent"),
        ({"batch_size": 4}, "batch_size 3, got 4"),
        ({"every": 2}, "every 1, got 2"),
        ({"patience": 4}, "patience 3, got 4"),
        ({"goal": 0.1}, "goal -inf, got 0.1"),
        ({"key": jax.random.key(1)}, r"key threefry2x32\[0, 0\], got threefry2x32\[0, 1\]"),
        (
            {"metrics": {"error": lambda o, t: jnp.mean((o - t) ** 2)}},
            r"metrics \[\], got \['error'\]",
        ),
    ],
)
def test_another_job_is_told_what_differs_and_nothing_changes(folder_of_a_job, changes, message):
    job = {"rule": RULE, "objective": OBJECTIVE, "params": START, "data": DATA, **MINI}
    before = content(folder_of_a_job)
    with pytest.raises(ValueError, match=rf"expected the job whose checkpoints are in .*{message}"):
        fit(**{**job, "patience": 3, "epochs": 2, **changes}, checkpoint=folder_of_a_job)
    assert content(folder_of_a_job) == before


def same(part):
    return rf"{part} of the same values, got others"


VALUE = r"value function \(model, loss, penalties\) of the same program, got another"
LOOK = r"look at the validation data \(metrics, prepare\) by the same program, got another"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": {**START, "bias": jnp.ones(())}}, same(r"params\['bias'\]")),
        (
            {"params": jax.tree.map(jnp.ones_like, START)},
            same(r"params\['bias'\] and 1 more"),
        ),
        ({"data": (INPUTS, -TARGETS)}, same(r"data\[1\]")),
        ({"data": (INPUTS[::-1], TARGETS[::-1])}, same(r"data\[0\] and 1 more")),
        ({"validation": (INPUTS, TARGETS.at[9].add(1e-9))}, same(r"validation\[1\]")),
        ({"state": RULE.update(START, RULE.init(START))[1]}, same(r"state\[0\]\.count")),
        ({"objective": fnn.Objective(lambda p, x: model(p, jnp.tanh(x)), loss)}, VALUE),
        ({"objective": fnn.Objective(lambda p, x: 2 * model(p, x), loss)}, VALUE),
        ({"objective": fnn.Objective(lambda p, x: model(p, x * INPUTS[0]), loss)}, VALUE),
        ({"objective": fnn.Objective(model, lambda y, t: 3 * loss(y, t))}, VALUE),
        ({"objective": OBJECTIVE + fnn.l2(0.1)}, VALUE),
        (
            {"objective": fnn.Objective(lambda p, x: p["none"] * x, loss)},
            "one that raises an error",
        ),
        ({"prepare": lambda params: jax.tree.map(jnp.tanh, params)}, LOOK),
    ],
)
def test_other_data_or_another_model_of_the_same_shapes(folder_of_a_job, changes, message):
    job = {"rule": RULE, "objective": OBJECTIVE, "params": START, "data": DATA, **MINI}
    before = content(folder_of_a_job)
    with pytest.raises(ValueError, match=rf"expected the job whose checkpoints are in .*{message}"):
        fit(**{**job, "patience": 3, "epochs": 2, **changes}, checkpoint=folder_of_a_job)
    assert content(folder_of_a_job) == before


def test_the_start_of_another_value_function_is_refused(tmp_path):
    """Two starts of one shape once gave the first one's result twice."""
    value_fn = fnn.penalty(lambda w: (w - 3.0) ** 2)
    fit(RULE, value_fn, jnp.array(3.5), steps=5, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=same("params")):
        fit(RULE, value_fn, jnp.array(-7.0), steps=5, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=same(r"data\.terms\[0\]\.scale")):
        fit(RULE, 2 * value_fn, jnp.array(3.5), steps=5, checkpoint=tmp_path)
    other = fnn.penalty(lambda w: (w - 4.0) ** 2)
    with pytest.raises(ValueError, match=VALUE):
        fit(RULE, other, jnp.array(3.5), steps=5, checkpoint=tmp_path)


def test_another_model_on_points_that_are_drawn_and_on_streams(tmp_path):
    """A list shows its first batch; of any other stream the validation data are alike."""

    def drawn(scale):
        return lambda key: fnn.Objective(lambda w, x: scale * w * x).on(
            jax.random.normal(key, (4,))
        )

    options = {"steps": 2, "key": KEY, "checkpoint": tmp_path / "drawn"}
    fit(RULE, drawn(1.0), jnp.ones(()), **options)
    with pytest.raises(ValueError, match=VALUE):
        fit(RULE, drawn(2.0), jnp.ones(()), **options)
    other = fnn.Objective(lambda p, x: -model(p, x), loss)
    for name, data, more in (
        ("list", BATCHES, {}),
        ("iterable", iter(BATCHES), MINI["validation"]),
    ):
        options = {"steps": 2, "checkpoint": tmp_path / name, "validation": more or None}
        fit(RULE, OBJECTIVE, START, data, **options)
        with pytest.raises(ValueError, match=VALUE):
            fit(RULE, other, START, data, **options)


def test_a_rate_may_be_changed_on_purpose_and_the_same_model_made_anew(tmp_path):
    fit(RULE, OBJECTIVE, START, DATA, steps=4, checkpoint=tmp_path)
    anew = fnn.Objective(lambda weights, example: model(weights, example), loss)
    fitted = fit(optax.adam(1e-3), anew, START, DATA, steps=6, checkpoint=tmp_path)
    begun = fit(RULE, OBJECTIVE, START, DATA, steps=4)
    state = begun.state
    for_hand = fit(optax.adam(1e-3), OBJECTIVE, begun.params, DATA, steps=2, state=state)
    assert_same(fitted.params, for_hand.params)


@pytest.mark.parametrize(
    "change",
    [lambda job: job.pop("digests"), lambda job: job["digests"].update({"made by": "jax 0"})],
)
def test_without_digests_of_this_release_shapes_decide(tmp_path, change):
    """Folders from before, and those of another release, whose random numbers may be others."""
    fit(RULE, OBJECTIVE, START, DATA, steps=4, checkpoint=tmp_path)
    file = tmp_path / "job.json"
    ((mark, job),) = json.loads(file.read_text()).items()
    change(job)
    file.write_text(json.dumps({mark: job}))
    fit(RULE, OBJECTIVE, START, (INPUTS, -TARGETS), steps=4, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="float64"):
        fit(RULE, OBJECTIVE, START, (INPUTS[1:], TARGETS[1:]), steps=4, checkpoint=tmp_path)


def identity():
    """Of a job with dropout, normalization, a loss of its own curvature and a second-order rule."""
    network = layers.serial(layers.dense(4), layers.batch_norm(), layers.dropout(0.1))
    network = layers.serial(network, layers.elementwise(jax.nn.gelu), layers.dense(3))
    labels = jnp.arange(10) % 3
    request = Request(
        rules.levenberg_marquardt(),
        fnn.Objective(network.apply, losses.softmax_cross_entropy) + fnn.l2(0.1),
        network.init(KEY, INPUTS[0]),
        (INPUTS, labels),
        **(MINI | {"validation": (INPUTS, labels)}),
        steps=3,
        prepare=lambda params: layers.calibrate(network, params, INPUTS),
    )
    return json.dumps(identity_of(job_of(request)), sort_keys=True)


def test_another_process_has_the_same_identity():
    """Processes that order sets otherwise."""
    program = """
        import sys
        import jax
        sys.path.insert(0, sys.argv[1])
        jax.config.update("jax_enable_x64", True)
        from tests.training.test_checkpoints import identity
        print(identity())
    """
    for seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(ROOT)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        assert said.strip() == identity()


def test_a_folder_with_anything_else_stays_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years")
    with pytest.raises(
        ValueError, match=r"to be empty or to hold checkpoints .* got thesis.tex; try"
    ):
        fit(RULE, OBJECTIVE, START, DATA, steps=3, checkpoint=tmp_path)
    assert list(content(tmp_path).values()) == [b"ten years"]
    (tmp_path / "job.json").write_text('{"name": "backup"}')
    with pytest.raises(ValueError, match=r"job\.json to describe a job of fit, got another file"):
        fit(RULE, OBJECTIVE, START, DATA, steps=3, checkpoint=tmp_path)
    assert sorted(content(tmp_path).values()) == [b"ten years", b'{"name": "backup"}']


@pytest.mark.parametrize("folder", ["/proc/none", __file__, f"{__file__}/below"])
def test_a_folder_that_cannot_be_written(folder):
    with pytest.raises(ValueError, match="a folder for checkpoints that can be written, got"):
        fit(RULE, OBJECTIVE, START, DATA, steps=3, checkpoint=folder)


def test_a_folder_in_which_another_process_trains(tmp_path):
    def meanwhile(_):
        with pytest.raises(ValueError, match="for this process alone"):
            fit(RULE, OBJECTIVE, START, DATA, steps=3, checkpoint=tmp_path)

    fit(RULE, OBJECTIVE, START, DATA, steps=2, checkpoint=tmp_path, callback=meanwhile)


def test_an_error_before_the_first_step_leaves_the_folder_free(tmp_path):
    with pytest.raises(TypeError):
        fit(RULE, OBJECTIVE, {**START, "weight": jnp.zeros(4)}, DATA, steps=1, checkpoint=tmp_path)
    fit(RULE, OBJECTIVE, START, DATA, steps=1, checkpoint=tmp_path)


def test_misuse_of_the_options(tmp_path):
    for options in ({"keep": 0}, {"seconds": -1.0}, {"seconds": np.nan}):
        with pytest.raises(ValueError, match="keep >= 1 and seconds >= 0"):
            fit(RULE, OBJECTIVE, START, DATA, steps=1, checkpoint=Checkpoints(tmp_path, **options))


def test_without_the_extra_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'fnn\[checkpoint\]'"):
        fit(RULE, OBJECTIVE, START, DATA, steps=1, checkpoint=tmp_path / "new")
    assert not (tmp_path / "new").exists()


# A long run ---------------------------------------------------------------------------------------


@pytest.mark.gate
def test_memory_and_files_of_a_long_run(capsys):
    """The soak of a million steps, for twenty thousand: nothing is left open, little is held."""
    soak = runpy.run_path(str(ROOT / "benchmarks" / "soak" / "long_fit.py"))
    slope, handles = soak["main"](steps=20_000, seconds=0.05)
    assert handles[0] == handles[1]
    assert slope < 30
    assert "MB per 100000 steps" in capsys.readouterr().out
