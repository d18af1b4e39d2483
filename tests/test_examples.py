"""Every example runs, is short, and learns what it says."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 80


def test_digits(capsys):
    main = runpy.run_path(str(EXAMPLES / "digits.py"))["main"]
    assert main(epochs=15) > 0.9
    assert "label" in capsys.readouterr().out
