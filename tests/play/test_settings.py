"""Settings: a link holds them whole, and what cannot be is said with what to try."""

import re

import pytest

from fnn.play import Settings, link, of_link
from fnn.play import settings as chosen
from fnn.play.settings import BOUNDS, CHOICES, HELP, checked

OTHER = {
    "data": "moons", "examples": 200, "noise": 0.25, "train": 50, "features": "x,y,xy",
    "layers": "3-2", "activation": "relu", "regularization": 0.001, "batch_size": 16,
    "first": "sgd", "first_rate": 0.3, "first_damping": 0.5, "second": "newton",
    "second_rate": 0.7, "second_damping": 2.0, "pace": "seconds", "speed": 9, "seed": 7,
    "first_steps": 12, "second_steps": 34,
}  # fmt: skip


def test_a_link_holds_all_settings_and_the_start_page_needs_none():
    other = Settings(**OTHER)
    assert set(OTHER) == set(Settings._fields)
    assert all(getattr(other, name) != getattr(Settings(), name) for name in OTHER)
    assert of_link(link(other)) == of_link("?" + link(other)) == other
    assert link(Settings()) == ""
    assert of_link("") == Settings()


def test_every_control_has_one_sentence_of_help():
    assert set(HELP) == set(Settings._fields) - {"first_steps", "second_steps"}
    for sentence in HELP.values():
        assert re.fullmatch(r"[A-Z][^.]*(\.\d[^.]*)*\.", sentence), sentence
        assert '"' not in sentence


@pytest.mark.parametrize("name", [*BOUNDS, *CHOICES])
def test_what_to_try_and_the_ends_are_possible(name):
    start = Settings()._replace(examples=1000, train=90)
    start = start if name == "regularization" else start._replace(regularization=0.0)
    known = CHOICES.get(name) or (BOUNDS[name].least, BOUNDS[name].instead)
    for value in known:
        assert getattr(checked(start, **{name: value}), name) == value


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("layers", "0", "layers: expected up to 4 numbers of units from 1 to 16, got '0'; try 8-8"),
        ("layers", "8-0", "got '8-0'; try 8-8"),
        ("layers", "1-2-3-4-5", "try 8-8"),
        ("layers", "17", "try 8-8"),
        ("layers", "-8", "try 8-8"),
        ("layers", "eight", "try 8-8"),
        ("first_rate", "0", "first rate: expected a number above 0 to 1000, got 0; try 0.01"),
        ("second_rate", "1e9", "second rate: expected a number above 0 to 1000, got 1e9"),
        ("first_rate", "nan", "got nan; try 0.01"),
        ("first_damping", "-1", "from 0 to 1e+06, got -1"),
        ("noise", "inf", "noise: expected a number from 0 to 2, got inf"),
        ("noise", "", "expected a number"),
        ("noise", None, "expected a number"),
        ("examples", "19", "examples: expected a whole number from 20 to 1000, got 19; try 400"),
        ("batch_size", "900", "at most the 320 examples that are trained on, got 900; try 0"),
        ("features", "", "features: expected some of x, y, x^2"),
        ("features", "x,z", "got 'z'; try x,y"),
        ("data", "spiral", "data: expected a data by name, got 'spiral'; did you mean 'spirals'?"),
        ("second", "adm", "did you mean 'adam'?"),
        ("first", "bayesian_levenberg_marquardt", "regularization: expected 0 beside bayesian_lev"),
        ("seed", "-1", "seed: expected a whole number"),
    ],
)
def test_what_cannot_be_is_said(field, value, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        checked(Settings(), **{field: value})


def test_a_link_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="expected a setting by name, got 'rate'"):
        of_link("rate=3")


def test_layers_and_features_are_read_as_people_write_them():
    assert checked(Settings(), layers=" 8, 4 ").units == (8, 4)
    assert checked(Settings(), layers="").units == ()
    assert checked(Settings(), features="xy,x").seen == ("x", "xy")
    assert chosen.takes("adam") == ("learning_rate",)
    assert Settings(second_damping=0.5).rules()[1] == ("levenberg_marquardt", {"damping": 0.5})
