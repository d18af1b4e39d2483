"""The guide runs, and K-FAC lowers what Adam left."""

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "examples" / "guides" / "frameworks.md"


@pytest.mark.gate
def test_the_guide_runs_from_top_to_bottom(capsys):
    page = GUIDE.read_text()
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, GUIDE.name, "exec"), names)
    said = capsys.readouterr().out
    before, after = map(float, re.findall(r"([\d.]+) -> ([\d.]+)", said)[0])
    assert after < before / 10
    assert [said.count(factor) for factor in ("64^2 (x) 32^2", "32^2 (x) 10^2")] == [1, 1]
    assert float(said.split()[-1]) > 0.9
    assert len(page.splitlines()) <= 120
