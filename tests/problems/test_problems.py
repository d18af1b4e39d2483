"""Every problem is whole, nothing leaks from what tests, and problems of files are found."""

import doctest
import inspect
import itertools
import math
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from fnn import Objective, data, layers, losses, problems
from fnn.problems import COSTS, autoencoders, equations, lectures, matlab, regression, text
from fnn.race.meter import mean_loss

# no examples: a value function, whose points may be anywhere
SURFACES = set(problems.SURFACES)
EQUATIONS = set(equations.PROBLEMS)
VALUE_FUNCTIONS = SURFACES | EQUATIONS | {n for n in problems.PROBLEMS if n.startswith("minpack")}
# what is learned is all that there is, or the table trains to a training error
LEARNED_BY_HEART = {
    n for n in problems.PROBLEMS if n.startswith(("xor", "parity", "fit", "matlab"))
}
EXAMPLES = set(problems.PROBLEMS) - VALUE_FUNCTIONS - LEARNED_BY_HEART


def dt(inputs, sizes=(30, 10, 10)):
    """A file of Proben1 with two outputs."""
    rng = np.random.default_rng(0)
    names = "bool_in", "real_in", "bool_out", "real_out"
    names = *names, "training_examples", "validation_examples", "test_examples"
    header = [f"{n}={c}" for n, c in zip(names, (0, inputs, 2, 0, *sizes), strict=True)]
    classes = rng.integers(2, size=sum(sizes))
    rows = [" ".join(map(str, [*rng.random(inputs).round(3), c, 1 - c])) for c in classes.tolist()]
    return "\n".join([*header, *rows, ""])


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A small file or folder for each problem that reads one."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "cancer.dt").write_text(dt(9))
    (folder / "diabetes.dt").write_text(dt(8))
    (folder / "text.txt").write_text("To be, or not to be: that is the question. " * 20)
    for part, n in {"train": 60, "t10k": 10}.items():
        images = rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
        head = struct.pack(">IIII", 2051, n, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = np.arange(n, dtype=np.uint8) % 10
        head = struct.pack(">II", 2049, n)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        rows = rng.integers(256, size=(12, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(12) % 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return {
        "matlab-cancer": folder / "cancer.dt",
        "matlab-diabetes": folder / "diabetes.dt",
        "mnist": folder,
        "fashion-mnist": folder,
        "mnist-15": folder,
        "mnist-conv": folder,
        "cifar10-conv": folder,
        "char-rnn": folder / "text.txt",
    }


@pytest.fixture(scope="module")
def made(paths):
    return {name: problems.get(name, paths.get(name)) for name in problems.PROBLEMS}


def on(problem, part):
    return part if problem.objective is None else problem.objective.on(part)


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_problems_are_whole(made, name):
    problem = made[name]

    def look(params, train, validation, test):
        value, grad = jax.value_and_grad(on(problem, train))(params)
        return value, grad, on(problem, validation)(params), problem.measure.of(params, test)

    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    starts = jax.jit(jax.vmap(problem.init))(keys)
    params, other = (jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], starts) for i in range(2))
    seen = jax.jit(look)(params, problem.train, problem.validation, problem.test)
    for leaf in jax.tree.leaves((params, seen)):
        assert jnp.issubdtype(leaf.dtype, jnp.floating)
        assert np.isfinite(leaf).all()
    _, grad, validation, measure = seen
    assert problem.name == name
    assert problem.summary
    assert problem.source
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grad)) > 0
    assert problem.target < validation
    if problem.measure.highest:
        assert measure < 0.95
    amount, unit = problem.budget
    assert unit in COSTS
    assert amount > 0
    assert (problem.objective is None) == (name in VALUE_FUNCTIONS)
    assert problem.batch_size is None or name in EXAMPLES
    if name != "deepobs-quadratic":  # which has one start
        first, second = (
            np.concatenate([*map(np.ravel, jax.tree.leaves(p))]) for p in (params, other)
        )
        assert (first != second).any()


@pytest.mark.parametrize("name", sorted(EXAMPLES - {"char-rnn"}))
def test_no_example_is_in_two_parts(made, name):
    parts = made[name].train, made[name].validation, made[name].test
    rows = [{row.tobytes() for row in jax.tree.leaves(part)[0]} for part in parts]
    shared = rows[0] & rows[1] | rows[0] & rows[2] | rows[1] & rows[2]
    assert len(shared) <= (name == "iris")  # two of its flowers are equal
    everything = {"breast-cancer": data.breast_cancer, "autoencoder": data.digits}
    source = everything.get(name, getattr(data, name, None))
    if name in {"digits", "iris", "wine", "moons", "circles", "diabetes", *everything}:
        assert sum(len(part.inputs) for part in parts) == len(source().inputs)


@pytest.mark.parametrize("name", ["wine", "breast-cancer", "diabetes", "mackey-glass"])
def test_inputs_are_standardized_by_the_training_examples_alone(made, name):
    train, others = made[name].train, (made[name].validation, made[name].test)
    np.testing.assert_allclose(train.inputs.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(train.inputs.std(axis=0), 1, atol=1e-9)
    for part in others:
        assert np.abs(part.inputs.mean(axis=0)).max() > 1e-3


def test_standardized_takes_nothing_from_what_tests():
    train = data.Data(np.array([[1.0, 7.0], [3.0, 7.0]]), np.array([[0.0], [4.0]]))
    test = data.Data(np.array([[1e9, 8.0]]), np.array([[1e9]]))
    scaled, far = problems.standardized([train, test], targets=True)
    np.testing.assert_array_equal(scaled.inputs, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(scaled.targets, [[-1], [1]])
    np.testing.assert_array_equal(far.inputs, [[1e9 - 2, 1]])
    np.testing.assert_array_equal(far.targets, [[(1e9 - 2) / 2]])


# Single problems ----------------------------------------------------------------------------------


def test_surfaces_are_what_is_drawn_and_lowest_at_their_minima(made):
    points = jax.random.uniform(jax.random.key(0), (20, 2), minval=-2, maxval=2)

    def look(points):
        return {
            name: [
                (jax.vmap(made[name].train)(x), jax.vmap(s.fn)(x), jax.vmap(jax.grad(s.fn))(x))
                for x in (points, jnp.array(s.minima))
            ]
            for name, s in problems.SURFACES.items()
        }

    for name, ((values, drawn, _), (lowest, _, slopes)) in jax.jit(look)(points).items():
        surface = problems.SURFACES[name]
        np.testing.assert_allclose(values, drawn, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(slopes, 0, atol=1e-12)
        np.testing.assert_allclose(lowest, lowest[0], atol=1e-12)
        assert (values > lowest[0]).all()
        assert lowest[0] < made[name].target
        for point in (surface.start, *surface.minima):
            assert surface.xlim[0] < point[0] < surface.xlim[1]
            assert surface.ylim[0] < point[1] < surface.ylim[1]


@pytest.mark.parametrize("name", sorted(VALUE_FUNCTIONS - {"bowl", "ravine", "saddle"}))
def test_least_squares_show_their_residuals(made, name):
    params = jax.eval_shape(made[name].init, jax.random.key(0))
    for term in made[name].train.terms:
        assert term.block.loss is None
        outputs = Objective(term.block.model).outputs
        rows = jax.eval_shape(outputs, params, term.block.inputs)
        assert rows.shape[0] == len(term.block.inputs)


@pytest.mark.parametrize(
    ("name", "mean_squared_error"),
    [
        ("matlab-sin", 0.002),
        ("matlab-parity", 0.001),
        ("matlab-cancer", 0.012),
        ("matlab-diabetes", 0.05),
    ],
)
def test_goals_are_means_of_squares_over_outputs_and_examples(made, name, mean_squared_error):
    problem = made[name]
    assert problem.train is problem.validation
    targets = problem.train.targets
    off = np.sqrt(mean_squared_error) * np.random.default_rng(0).choice([-1, 1], targets.shape)
    # a model that is off by as much in every output
    loss = Objective(lambda _, x: x, problem.objective.loss).on((targets + off, targets))(())
    np.testing.assert_allclose(loss, problem.target, rtol=1e-12)


def test_networks_of_the_table_have_the_sizes_of_the_table(made):
    sizes = {"sin": (1, 5, 1), "parity": (3, 10, 10, 1)}
    sizes |= {"cancer": (9, 5, 5, 2), "diabetes": (8, 15, 15, 2)}
    for name, widths in sizes.items():
        params = jax.eval_shape(made[f"matlab-{name}"].init, jax.random.key(0))
        shapes = [layer["weight"].shape for layer in params if layer]
        assert shapes == [*itertools.pairwise(widths)]


def test_the_table_s_problems_refuse_other_data(paths):
    with pytest.raises(ValueError, match=r"9 inputs and 2 outputs, got 8 and 2.*cancer1\.dt"):
        matlab.cancer(paths["matlab-diabetes"])


def test_parity_is_a_chain_of_exclusive_ors(made):
    for name in ("xor", "parity-2", "parity-3", "parity-4", "parity-5"):
        inputs, odd = made[name].train
        assert len(np.unique(inputs, axis=0)) == 2 ** inputs.shape[1]
        np.testing.assert_array_equal(odd[:, 0], np.logical_xor.reduce(inputs > 0, axis=1))


def test_the_delayed_equation_is_solved():
    """While the past is 0, and one delay later, where the past is known in closed form."""
    series = regression.mackey_glass_series(34)
    t = np.arange(18)
    np.testing.assert_allclose(series[:17], 1.2 * np.exp(-t[:17] / 10), rtol=1e-8)

    def production(s):
        past = 1.2 * math.exp(-(s - 17) / 10)
        return 0.2 * past / (1 + past**10) * math.exp(s / 10)

    for end in (20, 27, 34):
        exact = math.exp(-end / 10) * (1.2 + quad(production, 17, end, epsabs=1e-12)[0])
        np.testing.assert_allclose(series[end], exact, rtol=1e-4)
    finer = regression.mackey_glass_series(300, steps=40)
    np.testing.assert_allclose(regression.mackey_glass_series(300, steps=20), finer, atol=1e-3)


def test_poisson_s_solution_solves_it(made):
    equation, border = made["poisson"].train.terms
    assert equation.block.count == 900
    assert border.block.count == 120
    x = border.block.inputs
    assert (np.sort(np.minimum(x, 1 - x), axis=1)[:, 0] == 0).all()
    inside = equation.block.inputs
    assert ((inside > 0) & (inside < 1)).all()

    # u = sin sin has the Laplacian -2 pi^2 u, so that Laplace(network) + 2 pi^2 u is what is left
    residual = Objective(equation.block.model).outputs
    params = jax.jit(made["poisson"].init)(jax.random.key(0))

    def laplacian(x):
        return jnp.trace(jax.hessian(lambda x: border.block.model(params, x)[0])(x))

    left, curved = jax.jit(lambda x: (residual(params, x), jax.vmap(laplacian)(x)))(inside)
    right = 2 * np.pi**2 * np.sin(np.pi * inside).prod(axis=1)
    np.testing.assert_allclose(left, curved + right, rtol=1e-10, atol=1e-10)


SOLUTIONS = {
    "poisson": lambda x: jnp.prod(jnp.sin(jnp.pi * x)),
    "helmholtz": lambda x: jnp.sin(jnp.pi * x[0]) * jnp.sin(2 * jnp.pi * x[1]),
    "allen-cahn": lambda x: jax.nn.sigmoid(2 * 12.5**0.5 * (x[1] - 0.25 + 3 * 0.02**0.5 * x[0])),
    "heat": lambda x: jnp.exp(-(jnp.pi**2) / 4 * x[0]) * jnp.sin(jnp.pi * x[1:]).mean(),
}


@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_the_exact_solution_has_no_loss(name, monkeypatch):
    """In place of the network it leaves nothing inside, on the border, or where it is measured."""
    exact = layers.elementwise(lambda x: SOLUTIONS[name](x)[None])
    monkeypatch.setattr(equations, "network", lambda _: exact)
    problem = problems.get(name)
    left = jax.jit(lambda value_fn: [term(()) for term in value_fn.terms])(problem.train)
    np.testing.assert_allclose(left, 0, atol=1e-20)
    assert problem.measure.of((), problem.test) < 1e-12


@pytest.mark.parametrize("name", ["denoising-autoencoder", "variational-autoencoder"])
def test_noise_is_drawn_anew_in_training_alone(made, name):
    problem = made[name]
    params = jax.jit(problem.init)(jax.random.key(0))
    some = jax.tree.map(lambda a: a[:20], problem.validation)
    training = jax.jit(lambda key: problem.objective.on(some, key=key)(params))
    drawn = {float(training(jax.random.key(seed))) for seed in range(3)}
    assert len(drawn) == 3
    judged = jax.jit(lambda params: problem.objective.on(some)(params))
    assert judged(params) == judged(params)
    assert float(judged(params)) not in drawn


def test_the_bound_on_the_evidence_has_its_curvature():
    bound = autoencoders.negative_evidence_bound
    target = jnp.array([0.0, 1.0, 0.25, 0.5])

    @jax.jit
    def look(outputs):
        value, grad = jax.value_and_grad(bound)(outputs, target)
        divergence = value - losses.logistic(outputs[:4], target)
        hessian = jax.hessian(bound)(outputs, target)
        return losses.curvature(bound)(outputs, target), divergence, grad, hessian

    outputs = np.random.default_rng(0).normal(size=4 + 2 * 3)
    (B, s), divergence, grad, hessian = look(outputs)
    np.testing.assert_allclose(B @ B.T, hessian, atol=1e-12)
    np.testing.assert_allclose(B @ s, grad, atol=1e-12)
    mean, deviation = outputs[4:7], np.exp(outputs[7:] / 2)

    def integrand(z, m, d):
        return norm.pdf(z, m, d) * (norm.logpdf(z, m, d) - norm.logpdf(z))

    parts = zip(mean, deviation, strict=True)
    by_integral = [quad(integrand, -20, 20, args=pair)[0] for pair in parts]
    np.testing.assert_allclose(divergence, sum(by_integral), rtol=1e-6)


def test_a_sparse_model_is_trained_with_a_penalty_and_judged_without(made):
    problem = made["sparse-logistic"]
    weights = jnp.ones((200, 1))
    params = {"weight": weights}
    trained = problem.objective.on(problem.train)(params)
    judged = mean_loss(problem.objective, problem.train, params)
    np.testing.assert_allclose(trained - judged, 0.02 * 200, rtol=1e-12)


def test_the_hand_of_an_arm():
    angles = np.array([[0, 0, 0], [np.pi / 2, 0, 0], [0, np.pi / 2, 0], [0, 0, np.pi / 2]])
    np.testing.assert_allclose(
        regression.hand(angles), [[2, 0, 0], [0, 2, 0], [0, 0, 2], [1, 0, 1]], atol=1e-15
    )


# The grammar --------------------------------------------------------------------------------------


def noun_phrase(words):
    """Reads a noun phrase off the front of the words; returns whether it is plural."""
    word = words.pop(0)
    if word in text.NAMES:
        return False
    assert word.removesuffix("s") in text.NOUNS
    plural = word.endswith("s")
    if words[:1] == ["who"]:
        del words[0]
        if words[0].removesuffix("s") in (*text.WITH_OBJECT, *text.EITHER, *text.WITHOUT):
            verb_phrase(words, plural)
        else:
            verb_phrase(words, noun_phrase(words), has_gap=True)
    return plural


def verb_phrase(words, plural, has_gap=False):
    """Reads a verb that agrees, and its object unless that is a gap."""
    word = words.pop(0)
    verb = word.removesuffix("s")
    assert plural != word.endswith("s")
    if has_gap:
        assert verb in (*text.WITH_OBJECT, *text.EITHER)
        return
    has_object = bool(words) and words[0].removesuffix("s") in (*text.NOUNS, *text.NAMES)
    assert verb in (text.WITH_OBJECT if has_object else text.WITHOUT) + text.EITHER
    if has_object:
        noun_phrase(words)


def test_sentences_are_of_the_grammar():
    written = text.sentences(20_000)
    assert written == text.sentences(20_000)
    assert written != text.sentences(20_000, seed=1)
    clauses = []
    for sentence in written.split(". ")[:-1]:
        words = sentence.split()
        clauses.append(words.count("who"))
        verb_phrase(words, noun_phrase(words))
        assert words == []
    assert max(clauses) >= 3
    assert 0.2 < np.mean(np.array(clauses) > 0) < 0.6


def test_the_entropy_of_sentences_is_that_of_their_choices():
    """The bits of all choices in a long text, counted by its words."""
    written = text.sentences(200_000)
    words = [word.strip(".").removesuffix("s") for word in written.split()]
    count = {kind: sum(map(words.count, kind)) for kind in (text.NAMES, text.NOUNS, text.EITHER)}
    names, nouns, either = count.values()
    clauses = words.count("who")
    verbs = len(words) - names - nouns - clauses
    pairs = itertools.pairwise(words)
    gaps = sum(one == "who" and two in text.NAMES + text.NOUNS for one, two in pairs)
    bits = names * np.log2(5 * 2) + nouns * np.log2(5 / 4 * 2 * 4) + clauses * np.log2(4 * 2)
    bits += (nouns - clauses) * np.log2(4 / 3) + gaps * np.log2(4)
    bits += (verbs - gaps) * np.log2(3 * 2) + (either - gaps / 2) * np.log2(2)
    np.testing.assert_allclose(problems.entropy_of_sentences(), bits / len(written), rtol=0.01)


def test_a_text_s_rare_characters_are_one_and_pairs_are_counted(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("ab" * 400 + "abcd" * 50)
    problem = problems.get("char-rnn", file)
    assert set(problem.train.inputs.ravel()) == {0, 1}
    assert set(problem.test.inputs.ravel()) == {0, 1, 2}
    inputs, targets = problem.train
    np.testing.assert_array_equal(inputs.ravel()[1:], targets.ravel()[:-1])
    written = [np.array([*"abc"])[part.inputs.ravel()] for part in problem[5:8]]
    assert ["".join(part) for part in written] == ["ab" * 384, "abcc" * 24, "abcc" * 24]
    file.write_text("ab" * 10)
    with pytest.raises(ValueError, match=r"640 characters or more, got 20"):
        problems.get("char-rnn", file)
    with pytest.raises(ValueError, match=r"char-rnn: expected a text to read, got .*nowhere"):
        problems.get("char-rnn", tmp_path / "nowhere")
    file.write_bytes(b"\xff" * 1000)
    with pytest.raises(ValueError, match="a text in UTF-8"):
        problems.get("char-rnn", file)


# Names and files ----------------------------------------------------------------------------------


def test_makers_say_what_they_read():
    for name, maker in problems.PROBLEMS.items():
        parameters = inspect.signature(maker).parameters.values()
        required = [p.name for p in parameters if p.default is p.empty]
        assert required == ([] if name not in problems.DATA else required[:1])
        assert set(required) <= {"file", "folder"}
        assert (inspect.getdoc(maker) or "").splitlines()[0].endswith(".")


def test_suites_are_of_problems_that_need_no_files():
    for names in problems.SUITES.values():
        assert len(set(names)) == len(names)
        assert set(names) <= set(problems.PROBLEMS) - set(problems.DATA)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digit",), "did you mean 'digits'"),
        (("zzz",), "there are: xor, parity-2"),
        (("mnist",), r"mnist: expected a folder with MNIST's four IDX files, .*try --data FOLDER"),
        (("matlab-cancer",), r"expected Proben1's cancer1\.dt .*got none; try --data FILE"),
        (("iris", "data"), "iris: expected no data, got data; try without --data"),
        (("nowhere.py",), r"nowhere\.py: expected a Python file that defines a problem, got no"),
    ],
)
def test_names_and_data_that_do_not_fit_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        problems.get(*arguments)
    with pytest.raises(ValueError, match="expected 1 to 16 signs, got 0"):
        lectures.parity(0)


@pytest.fixture(scope="module")
def ten_lines():
    """The file that the documentation shows."""
    example = doctest.DocTestParser().get_examples(inspect.getdoc(problems.load))[0]
    namespace = {}
    exec(example.source, namespace)
    return namespace["text"]


def test_ten_lines_in_a_file_are_a_problem(tmp_path, ten_lines):
    assert len(ten_lines.strip().splitlines()) == 10
    file = tmp_path / "my_problem.py"
    file.write_text(ten_lines)
    problem = problems.get(str(file))
    assert problem.name == "valleys"
    params = jax.jit(problem.init)(jax.random.key(0))
    assert problem.target < problem.validation(params)
    assert problem.validation(jnp.array([0.5, 0.5])) < problem.target
    with pytest.raises(ValueError, match=r"my_problem\.py: expected no data, got data"):
        problems.get(str(file), "data")


def test_a_file_may_hold_a_function_with_or_without_a_path(tmp_path, ten_lines):
    function = ten_lines.replace("problem = ", "made = ") + "\n"
    file = tmp_path / "my_problem.py"
    file.write_text(f"{function}def problem():\n    return made\n")
    assert problems.get(str(file)).name == "valleys"
    file.write_text(f"{function}def problem(file):\n    return made._replace(name=file)\n")
    assert problems.get(str(file), "text.txt").name == "text.txt"
    with pytest.raises(
        ValueError, match=r"my_problem\.py: expected a path, file, got none; try --"
    ):
        problems.get(str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import math\n\nmath.sqrt(-1)\n", r"my_problem\.py, line 3: ValueError: "),
        (
            "x = 1\ndef problem():\n    return x / 0\n",
            r"line 3: ZeroDivisionError: division by zero",
        ),
        ("problem = (\n", r"line 1: SyntaxError: '\(' was never closed"),
        ("import nowhere_to_be_found\n", r"line 1: ModuleNotFoundError: No module named"),
        ("problems = 1\n", r"expected `problem` to be a Problem or a function .*, got none; try"),
        ("problem = 1\n", r"got a int; try problem = fnn\.problems\.Problem"),
        ("def problem():\n    pass\n", r"got none; try"),
    ],
)
def test_a_file_that_holds_no_problem_is_named_with_the_line(tmp_path, content, message):
    file = tmp_path / "my_problem.py"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        problems.get(str(file))
