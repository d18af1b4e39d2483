"""The benchmark of accelerators runs here in its reduced form, and says what it cannot run."""

import runpy
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.gate
def test_the_reduced_form_measures_every_part(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = sorted((BENCHMARKS / "results").iterdir())
    report = runpy.run_path(str(BENCHMARKS / "accelerator.py"))["main"](reduced=True)
    said = capsys.readouterr().out
    parts = [rows for rows in report.values() if isinstance(rows, dict) and "jax" not in rows]
    assert len(parts) == 4  # rates, float64, one width, one network
    for name, row in (entry for rows in parts for entry in rows.items()):
        assert name in said
        if "cannot" in row:  # a peer that is not installed
            assert name.startswith("kfac-jax")
            assert "kfac_jax" in row["cannot"]
        else:
            assert all(np.isfinite(number) and number > 0 for number in row.values())
    assert {"adam", "soap", "shampoo", "muon", "kfac, one row"} <= report["perceptron"].keys()
    assert report["rates"]["product, float64"]["gigaflops"] > 0
    assert sorted((BENCHMARKS / "results").iterdir()) == before
