"""The Python of the README and of the guides runs, and the README's commands are those of CI."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = sorted((ROOT / "examples" / "guides").glob("*.md"))
COURSE = ROOT / "examples" / "README.md"


def blocks(path):
    """The blocks of Python in a page."""
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def run(path, names):
    """Runs a page from top to bottom."""
    for block in blocks(path):
        exec(compile(block, path.name, "exec"), names)


@pytest.mark.parametrize("path", [ROOT / "README.md", COURSE], ids=["README", "course"])
def test_the_code_runs_from_top_to_bottom(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(path, {"__name__": "page"})
    said = capsys.readouterr().out
    wanted = ("After", "dot_general", "levenberg_marquardt") if path.parent == ROOT else ("0.1172",)
    assert all(word in said for word in wanted), said


def test_the_readme_is_short_and_what_it_links_exists():
    assert len(README.splitlines()) <= 160
    for page in (ROOT / "README.md", *GUIDES, ROOT / "benchmarks" / "README.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


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
