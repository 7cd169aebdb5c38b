"""What a grid says: paired differences, the table, the claim, and the curves of the data."""

import math
from types import SimpleNamespace

import pytest

from transmamba.ablation_report import claims, row_of, summarise, table_rows, to_markdown, write
from transmamba.config import RunConfig

METRIC = {"name": "accuracy", "form": ".2%", "higher_is_better": True}


def trained(accuracies):
    history = [{"step": 10 * (i + 1), "epoch": i + 1, "accuracy": a} for i, a in enumerate(accuracies)]
    steps = 10 * len(accuracies)
    return {
        "accuracy": accuracies[-1],
        "train_samples": 75,
        "epochs": len(accuracies),
        "steps": steps,
        "history": history,
    }


def run(accuracies, scratch=None):
    results = {"teacher": {"accuracy": 0.99}, "adapted": trained(accuracies), "scratch": scratch and trained(scratch)}
    return {"metric": METRIC, "data": {"unit": "images"}, "results": results}


@pytest.fixture
def content():
    """Base and two variants over two seeds; seeds differ much more than variants, and one training failed."""
    grid = SimpleNamespace(
        config=RunConfig(),
        variants={"base": {}, "data-75": {"fraction": 0.75}, "uniform": {"distill.weighting": "uniform"}},
        same=("data-100",),
        left_out={"mixer-vo": "no bias"},
    )
    metrics = {
        "base": {0: run([0.4, 0.5, 0.6], [0.3, 0.4, 0.5]), 7: run([0.7, 0.8, 0.9], [0.7, 0.8, 0.85])},
        "data-75": {0: run([0.1, 0.45, 0.49]), 7: run([0.7, 0.86, 0.85])},
        "uniform": {7: run([0.8, 0.88, 0.89])},
    }
    return summarise(grid, metrics)


def test_differences_are_paired(content):
    row = content["rows"]["data-75"]
    assert row["reached"] == pytest.approx({"mean": 0.67, "std": 0.36 / math.sqrt(2)})
    assert row["to_scratch"] == pytest.approx({"mean": -0.005, "error": 0.005})
    assert row["to_base"] == pytest.approx({"mean": -0.08, "error": 0.03})
    assert content["rows"]["uniform"]["to_base"] == {"mean": pytest.approx(-0.01), "error": None}
    assert content["rows"]["base"]["to_scratch"] == pytest.approx({"mean": 0.075, "error": 0.025})
    assert content["teacher"] == {"mean": pytest.approx(0.99), "std": 0}


def test_table(content):
    assert table_rows(content, ["scratch", "data-75", "uniform"]) == [
        ("scratch", "75", "3", "30", "67.50 ± 24.75", "-7.50 ± 2.50", "", "30 (epoch 3)"),
        ("data-75", "75", "3", "30", "67.00 ± 25.46", "-8.00 ± 3.00", "-0.50 ± 0.50", "20 (epoch 2) in 1 of 2"),
        ("uniform (seeds 7)", "75", "3", "30", "89.00", "-1.00", "+4.00", "20 (epoch 2)"),
    ]


def test_claims_are_met_or_missed(content):
    assert row_of(content, "data-100") is content["rows"]["base"]
    assert claims(content) == [
        "adapted on 75 % of scratch's data, equal epochs: -0.50 points to scratch, at least -0.5: met",
        "scratch's final accuracy on 100 % of its data: after 0.83 of its steps, at most 0.5: missed",
        "scratch's final accuracy on 75 % of its data: reached in 1 of 2 seeds: missed",
    ]
    content["rows"]["data-75"]["to_scratch"]["mean"] = -0.0051
    assert claims(content)[0].endswith("-0.51 points to scratch, at least -0.5: missed")


def test_pages(content, tmp_path):
    pytest.importorskip("matplotlib")
    write(tmp_path, content)
    page = (tmp_path / "ablation.md").read_text()
    assert to_markdown(content) in page
    assert "over seeds 0, 7;" in page
    assert "The base is also data-100." in page
    assert "- mixer-vo was left out: no bias" in page
    assert page.count("| scratch |") == 2
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert '"curve"' not in (tmp_path / "ablation.json").read_text()
