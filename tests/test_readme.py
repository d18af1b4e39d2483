"""The README's Python runs, and its commands are the ones that CI runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_code_runs_from_top_to_bottom(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 5
    names = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "All steps asked for were taken." in capsys.readouterr().out


def test_ci_runs_the_commands_that_the_readme_gives():
    commands = re.findall(r"```sh\n(.*?)\n```", README)
    assert commands[:2] == [
        "pip install uv && uv run fnn race digits",
        "pip install uv && uv run pytest",
    ]
    gate = (ROOT / ".ci" / "run").read_text()
    wanted = r"< <(sed -n 's/^pip install uv && \(uv run .*\)$/\1/p' README.md)"
    assert f"mapfile -t commands {wanted}" in gate
    assert 'for command in "${commands[@]}"; do $command; done' in gate
    assert len(re.findall(r"^pip install uv && uv run .*$", README, re.MULTILINE)) == 2
