"""The report: its numbers, its texts, its picture."""

import json
import struct

import pytest
import torch
from torch import nn

from transmamba.report import first_reaching, load_line, samples_per_second, table_rows, to_markdown, write_report


def history(accuracies):
    return [{"step": 10 * (i + 1), "epoch": i + 1, "accuracy": a, "loss": 1.0} for i, a in enumerate(accuracies)]


def result(accuracies):
    return {
        "accuracy": accuracies[-1],
        "parameters": 232266,
        "samples_per_second": 1234.5,
        "steps": 10 * len(accuracies),
        "epochs": len(accuracies),
        "train_samples": 75,
        "seconds": 4.2,
        "history": history(accuracies),
    }


@pytest.fixture
def metrics():
    return {
        "config": {"student": "vim", "data": "digits", "seed": 0, "teacher": {"fraction": 1.0}},
        "data": {"train": 100, "test": 20, "unit": "images"},
        "metric": {"name": "accuracy", "form": ".2%", "higher_is_better": True},
        "teacher": {"origin": "reused", "folder": "t", "weights": "0"},
        "coverage": 0.25,
        "results": {
            "teacher": {"accuracy": 0.98, "parameters": 1000, "samples_per_second": 99.0, "seconds": 3.0},
            "scratch": result([0.3, 0.8, 0.7]),
            "adapted": result([0.6, 0.75, 0.9]),
        },
        "versions": {"torch": "2"},
    }


def test_first_reaching():
    rows = history([0.1, 0.5, 0.4, 0.6])
    assert first_reaching(rows, 0.45)["epoch"] == 2
    assert first_reaching(rows, 0.5)["epoch"] == 2
    assert first_reaching(rows, 0.7) is None


def test_table(metrics):
    assert table_rows(metrics) == [
        ("teacher", "98.00%", "1,000", "99", "-"),
        ("scratch", "70.00%", "232,266", "1,234", "20 of 30 (epoch 2 of 3)"),
        ("adapted", "90.00%", "232,266", "1,234", "20 of 30 (epoch 2 of 3)"),
    ]
    metrics["results"]["adapted"] = result([0.1, 0.2, 0.3])
    assert table_rows(metrics)[2][-1] == "not in 30"
    metrics["results"]["scratch"] = None
    assert [row[0] for row in table_rows(metrics)] == ["teacher", "adapted"]
    assert table_rows(metrics)[1][-1] == "-"


def test_page_says_how_it_was_measured(metrics):
    page = to_markdown("runs/a", metrics)
    assert page.startswith("# vim on digits, seed 0\n")
    assert "| adapted | 90.00% | 232,266 | 1,234 | 20 of 30 (epoch 2 of 3) |" in page
    assert "that of the last epoch on 20 test images" in page
    assert "saw 75 of 100 training images, after 25.0% of its parameters had been cloned" in page
    assert "trained by an earlier run and reused; its training saw 100% of the training data" in page
    assert 'student = load_pretrained("runs/a/student")' in page
    metrics["results"]["scratch"] = None
    assert "scratch" not in to_markdown("runs/a", metrics).split("## Use")[0].replace(HEADER, "")


HEADER = "steps to scratch's accuracy"


@pytest.mark.parametrize("scratch", [True, False])
def test_folder(metrics, tmp_path, scratch):
    pytest.importorskip("matplotlib")
    if not scratch:
        metrics["results"]["scratch"] = None
    write_report(tmp_path, metrics)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "metrics.json", "report.md"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    picture = (tmp_path / "curves.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (1050, 630)


def test_speed_is_measured_in_eval_mode():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.sizes = nn.Parameter(torch.ones(())), []

        def forward(self, images):
            assert not self.training
            assert not torch.is_grad_enabled()
            self.sizes.append(len(images))
            return images

    model = Model()
    assert samples_per_second(model, torch.zeros(40, 2), batch_size=16, seconds=0) > 0
    assert model.training
    assert model.sizes == [16] * 4


def test_the_printed_line_is_python(tmp_path):
    line = load_line(tmp_path / "a")
    compile(line, "line", "exec")
    assert line.endswith(f'load_pretrained("{(tmp_path / "a" / "student").as_posix()}")')
