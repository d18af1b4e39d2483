"""How rules enter a race: what names, files and packages stand for, and what is no rule."""

import jax
import numpy as np
import optax
import pytest

from fnn import problems, race
from fnn.race import entering
from fnn.race.entrants import ENTRANTS, Entrant

RULES = """
import optax
from optax import adam, chain
from fnn.race import ENTRANTS, Entrant

plain = optax.sgd(0.1)
wide = ENTRANTS["adam"]._replace(name="wide", space={"learning_rate": (1e-4, 1.0)})
mine = Entrant("own_name", lambda problem, momentum: optax.sgd(0.1, momentum),
               {"momentum": (0.1, 0.9)})

def clipped(learning_rate):
    return chain(optax.clip(1.0), _inner(learning_rate))

def careful(learning_rate=0.5, clip=1.0):
    return chain(optax.clip(clip), _inner(learning_rate))

def helper(x):
    return x

def _inner(learning_rate):
    return adam(learning_rate)
"""


@pytest.fixture
def my_rules(tmp_path):
    path = tmp_path / "my_rules.py"
    path.write_text(RULES)
    return path


def test_a_file_defines_rules_by_name(my_rules):
    """Entrants have names of their own; functions of others, helpers and underscores are none."""
    found = {one.name: one for one in entering([str(my_rules)])}
    assert list(found) == ["plain", "wide", "own_name", "clipped", "careful"]
    problem = problems.get("xor")
    for one in found.values():
        setting = {name: low for name, (low, _) in one.space.items()}
        assert isinstance(one.make(problem, **setting), optax.GradientTransformation)
    assert found["plain"].space == {}
    assert found["wide"].space == {"learning_rate": (1e-4, 1.0)}


def test_the_learning_rate_of_a_function_is_tuned_around_its_default(my_rules):
    found = {one.name: one for one in entering([str(my_rules), "optax.contrib.prodigy"])}
    adam = ENTRANTS["adam"]
    assert (found["clipped"].space, found["clipped"].defaults) == (adam.space, adam.defaults)
    assert found["careful"].space == {"learning_rate": (0.05, 5.0)}
    assert found["careful"].defaults == {"learning_rate": 0.5}
    assert found["optax.contrib.prodigy"].space == {"learning_rate": (0.1, 10.0)}


def test_all_kinds_of_rules_stand_beside_each_other(my_rules):
    fixed = optax.sgd(0.1)
    racing = ["adam", fixed, Entrant("mine", lambda _: fixed), str(my_rules), "optax.contrib.muon"]
    names = [one.name for one in entering(racing)]
    assert names[:3] == ["adam", "rule-2", "mine"]
    assert names[-1] == "optax.contrib.muon"
    assert len(names) == 9
    called = entering({"one": fixed, "two": ENTRANTS["adam"]})
    assert [one.name for one in called] == ["one", "two"]
    assert called[0].make(problems.get("xor")) is fixed
    assert called[1].space == ENTRANTS["adam"].space
    (mine,) = entering({"mine": "optax.contrib.muon"})
    assert (mine.name, mine.space) == ("mine", ENTRANTS["adam"].space)


@pytest.mark.parametrize("name", ["optax.lbfgs", "optax.adafactor"])
def test_a_rule_that_finds_its_rate_by_itself_has_none_to_tune(name):
    (one,) = entering([name])
    assert one.space == {}
    assert isinstance(one.make(problems.get("xor")), optax.GradientTransformation)


@pytest.mark.parametrize("how", ["by name", "as it is", "in a chain"])
def test_a_schedule_free_rule_races_as_its_average(how):
    """The parameters are what optax evaluates, step by step, on the way of the bare rule."""
    bare = optax.contrib.schedule_free_sgd(0.1)
    if how == "in a chain":
        bare = optax.chain(optax.clip_by_global_norm(1.0), bare)
    (one,) = entering(["optax.contrib.schedule_free_sgd"] if how == "by name" else [bare])
    rate = {"learning_rate": 0.1} if how == "by name" else {}
    problem = problems.get("rosenbrock")
    value_fn = problem.train
    rule = optax.with_extra_args_support(one.make(problem, **rate))
    y = params = problem.init(jax.random.key(0))
    theirs, ours = bare.init(y), rule.init(params)
    for _ in range(5):
        updates, theirs = bare.update(jax.grad(value_fn)(y), theirs, y)
        y = optax.apply_updates(y, updates)
        step, ours = rule.update(jax.grad(value_fn)(params), ours, params, value_fn=value_fn)
        params = optax.apply_updates(params, step)
        average = optax.contrib.schedule_free_eval_params(
            theirs[1] if how == "in a chain" else theirs, y
        )
        np.testing.assert_allclose(params, average, rtol=1e-12)
    assert np.abs(np.asarray(params) - np.asarray(y)).max() > 1e-6


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["adm"], "did you mean 'adam'"),
        (["optax.contrib.moun"], "got 'moun'; did you mean 'optax.contrib.muon'"),
        (["optax.contrb.muon"], "got 'contrb'; did you mean 'optax.contrib'"),
        (["optex.adam"], "expected a package that is installed, got 'optex'"),
        (["optax.apply_updates"], "one that needs params, updates; try a file my_rules.py"),
        (["optax.__version__"], "or a function that returns one, got '"),
        (["no_rules.py"], "no_rules.py: expected a Python file that defines rules, got no file"),
        ([1e-3], "an Entrant or an optax transformation, got a float"),
        ([optax.adam], "an Entrant or an optax transformation, got a function; try Entrant"),
        ({"a": "adm"}, "did you mean 'adam'"),
        ({"a": 3}, "an Entrant or an optax transformation, got a int"),
        ("adam", r"expected rules in a list, got one, 'adam'; try \[...\]"),
        (optax.adam(0.1), "expected rules in a list, got one, a GradientTransformation"),
        ([], "names of their own, got none"),
        (["adam", "adam"], r"names of their own, got adam twice"),
    ],
)
def test_what_is_no_rule_is_said_before_anything_is_run(tmp_path, rules, message):
    with pytest.raises(ValueError, match=message):
        race.run("xor", rules, folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_name_stands_for_one_rule(my_rules):
    with pytest.raises(ValueError, match=r"one rule under the name mine, got 5 in .*; try a list"):
        entering({"mine": str(my_rules)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 3", "expected a file that defines rules by name, .* got none; try mine ="),
        ("import sys\nsys.exit(3)", r"my_rules\.py, line 2: SystemExit: 3"),
        ("x = 3\ndef (:\n", r"my_rules\.py, line 2: SyntaxError"),
        ("import optax\n\nplain = optax.sdg(0.1)", r"my_rules\.py, line 3: AttributeError"),
        ("def mine(learning_rate, data): ...", "one that needs learning_rate, data"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_its_line(tmp_path, text, message):
    path = tmp_path / "my_rules.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        entering([str(path)])


def test_a_package_that_cannot_be_imported_is_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_rules").mkdir()
    (tmp_path / "broken_rules" / "__init__.py").write_text("")
    (tmp_path / "broken_rules" / "inner.py").write_text("1 / 0")
    (tmp_path / "broken_rules" / "needy.py").write_text("import no_such_package")
    with pytest.raises(ValueError, match=r"broken_rules\.inner: ZeroDivisionError"):
        entering(["broken_rules.inner.rule"])
    with pytest.raises(ValueError, match=r"broken_rules\.needy: ModuleNotFoundError: No module"):
        entering(["broken_rules.needy.rule"])
    with pytest.raises(ValueError, match="expected a name of broken_rules, got 'outer'; try one"):
        entering(["broken_rules.outer.rule"])
