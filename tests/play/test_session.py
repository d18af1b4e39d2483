"""A session: it obeys, waits for who looks, says what went wrong, and ends."""

import time

import pytest

from fnn.play import Settings, match, recording
from fnn.play.session import Session

SMALL = Settings(
    data="xor", examples=40, layers="3", first_rate=0.1, seed=1, regularization=1e-3, batch_size=0
)


def waits(condition):
    """Until a condition is true."""
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def session():
    opened = Session(SMALL)
    waits(lambda: opened.frame.pictures)
    yield opened
    opened.order("close")
    opened.thread.join(60)
    assert not opened.thread.is_alive()


def test_it_runs_pauses_steps_and_goes_back(session):
    assert session.frame.steps == (0, 0)
    session.order("step")
    waits(lambda: session.frame.steps == (1, 1))
    session.take()
    session.order("run")
    waits(lambda: session.take() or session.frame.steps[0] >= 13)
    session.order("pause")
    waits(lambda: not session.frame.running)
    held = session.frame
    session.order("pace", SMALL._replace(speed=7))
    waits(lambda: session.frame.number > held.number)
    assert session.frame.steps == held.steps
    assert (held.steps[0] - 1) % 4 == 0
    session.order("reset", SMALL)
    waits(lambda: session.frame.steps == (0, 0) and not session.frame.preparing)


def test_who_does_not_look_stops_the_training(session):
    session.order("run")
    waits(lambda: session.frame.running)
    seen = session.frame.number
    session.take()
    waits(lambda: session.frame.number == seen + 1)
    for _ in range(3):  # orders are heard all the same, and nothing is learned
        before = session.frame
        session.order("pace")
        waits(lambda before=before: session.frame.number > before.number)
        assert session.frame.steps == before.steps or session.frame.steps[0] - before.steps[0] == 4
        assert session.frame.running


def test_whatever_goes_wrong_is_said_and_reset_works(session, monkeypatch):
    def broken(*_):
        raise RuntimeError("no memory is left")

    with monkeypatch.context() as patched:
        patched.setattr(match, "forward", broken)
        session.order("step")
        waits(lambda: session.frame.troubles)
    assert session.frame.troubles == ("no memory is left (nothing is learned until reset)",)
    session.order("step")
    session.order("reset")
    waits(lambda: not session.frame.troubles and not session.frame.preparing)
    session.order("step")
    waits(lambda: session.frame.steps == (1, 1))


def test_a_link_with_steps_begins_there(session):
    session.order("reset", SMALL._replace(first_steps=5, second_steps=2))
    waits(lambda: session.frame.steps == (5, 2))


def test_a_film_is_as_long_as_it_was_asked_for(tmp_path):
    from PIL import Image

    file = recording.record(tmp_path / "xor.gif", SMALL, 0.3)
    with Image.open(file) as film:
        assert film.n_frames == 3
        assert film.size[0] % 2 == film.size[1] % 2 == 0


@pytest.mark.parametrize(
    ("name", "seconds", "says"),
    [
        ("a.avi", 1, "record: expected a file that ends with .gif or .mp4, got 'a.avi'"),
        ("a.gif", 0, "record: expected from 0 to 60 seconds, got 0; try 6"),
        ("a.gif", 61, "got 61; try 6"),
        ("none/a.gif", 1, "record: expected a folder that is there, got .*none"),
    ],
)
def test_films_that_cannot_be_are_refused_before_anything_is_learned(tmp_path, name, seconds, says):
    with pytest.raises(ValueError, match=says):
        recording.record(tmp_path / name, SMALL, seconds)
