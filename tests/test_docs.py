"""The documentation: its examples run, its links hold, and its measured tables are the measurements."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from benchmarks.rows import Measurements, Row
from docs import measured
from tests.test_architecture import OPS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MACHINE = {
    "cpu": "a processor",
    "instruction_set": "some",
    "torch": "2",
    "rounds": 3,
    "commit": "0123456789ab",
    "uncommitted_changes": False,
    "date": "2000-01-01",
}
A_GPU = {"gpu": "A GPU", "driver": "580", "clocks": {"max.sm": "1980 MHz"}, "cuda": "13.0", "nvcc": "13.0.1"}
A_GPU |= {"triton": "3", "peers": {"mamba_ssm": "2.3"}}
FAST = Row("an_op", "(1, 2)", "forward", "cpp", "torch_loop", 40.125, target=32)
SLOW = dataclasses.replace(FAST, value=10.0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page):
    text = page.read_text()
    # Every line before the example is left empty, so that a traceback gives the line of the page.
    names = {"__name__": page.stem}
    for found in EXAMPLE.finditer(text):
        blank = "\n" * text.count("\n", 0, found.start(1))
        exec(compile(blank + found.group(1), str(page), "exec"), names)


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_an_example(op):
    assert any(op in example for example in EXAMPLE.findall(measured.page_of(op).read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_inside_the_repository(page):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_op_has_a_place_for_measurements():
    assert measured.ops() == sorted(OPS)


def test_every_op_has_a_place_for_measurements_on_a_gpu():
    page = measured.GPU.read_text()
    assert [op for op in OPS if measured.OPENS.format(section=op + measured.ON_A_GPU) not in page] == []


def test_tables_are_the_measurements():
    assert measured.main(check=True) == 0, "run `make docs`"


def _page(op="an_op"):
    return f"before\n{measured.OPENS.format(section=op)}stale\n{measured.CLOSES}\nafter\n"


def test_tables_are_filled_in(tmp_path):
    found = Measurements()
    for row in (FAST, SLOW, dataclasses.replace(FAST, op="another_op")):
        found.add(row)
    found.save(tmp_path / "cpu.json", MACHINE)
    page = measured.fill(_page(), "an_op", tmp_path)
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "stale" not in page
    assert "commit `0123456789ab`: a processor, some, torch 2, 3 interleaved rounds" in page
    assert page.count("torch_loop") == 2
    assert "| (1, 2) | forward | cpp | torch_loop | 40.1 x | >= 32 x | met |" in page
    assert "| 10 x | >= 32 x | missed |" in page
    assert measured.fill(page, "an_op", tmp_path) == page


def test_the_overview_has_what_has_a_target(tmp_path):
    found = Measurements()
    for row in (FAST, dataclasses.replace(FAST, peer="no_target", target=None), dataclasses.replace(FAST, op="other")):
        found.add(row)
    found.save(tmp_path / "cpu.json", MACHINE)
    page = measured.fill(_page(measured.TARGETS), measured.TARGETS, tmp_path)
    assert "| an_op | (1, 2) | forward | cpp | torch_loop | 40.1 x | >= 32 x | met |" in page
    assert "| other | (1, 2) |" in page
    assert "no_target" not in page


def test_a_gpu_has_tables_of_its_own(tmp_path):
    found = Measurements()
    for row in (FAST, dataclasses.replace(FAST, peer="mamba_ssm", target=5, device="gpu")):
        found.add(row)
    sections = ("an_op", "an_op on a GPU", "beside others on a GPU")
    for section in sections[1:]:
        assert "Not yet measured" in measured.fill(_page(section), section, tmp_path)
    found.save(tmp_path / "a_gpu.json", {**MACHINE, **A_GPU})
    cpu, gpu, beside = (measured.fill(_page(section), section, tmp_path) for section in sections)
    assert "a processor, some, torch 2" in cpu
    assert "mamba_ssm" not in cpu
    machine = "A GPU (driver 580, at most 1980 MHz), CUDA 13.0, nvcc 13.0.1, Triton 3, mamba_ssm 2.3, torch 2"
    assert f"commit `0123456789ab`: {machine}, 3 interleaved rounds" in gpu
    assert "| (1, 2) | forward | cpp | mamba_ssm | 40.1 x | >= 5 x | met |" in gpu
    assert "torch_loop" not in gpu
    assert "| an_op | (1, 2) | forward | cpp | mamba_ssm |" in beside


def test_the_adaptation_is_a_table_of_its_own(tmp_path):
    def row(reached, samples, steps):
        return {"reached": {"mean": reached}, "seeds": {seed: {"samples": samples, "steps": steps} for seed in "03"}}

    content = {
        "config": {"epochs": 10},
        "same_as_base": ["data-25"],
        "teacher": {"mean": 0.97},
        "rows": {
            "scratch": row(0.9123, 1000, 160),
            "base": row(0.9, 250, 40),
            **{f"data-{share}": row(0.9 + share / 1000, 10 * share, 2 * share) for share in (100, 75, 50)},
        },
    }
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "digits.json").write_text(json.dumps(content))
    page = measured.fill(_page(measured.ADAPTATION), measured.ADAPTATION, tmp_path)
    assert "Means over 2 seeds (`transmamba ablate`), 10 epochs each" in page
    assert "| Mamba from scratch | 1000 | 160 | 91.23% |" in page
    assert "| the same Mamba, adapted, 75 % of the data | 750 | 150 | 97.50% |" in page
    assert "| the same Mamba, adapted, 25 % of the data | 250 | 40 | 90.00% |" in page
    assert "Nothing is measured yet" in measured.fill(_page(), "an_op", tmp_path)


def test_without_measurements_the_page_says_so(tmp_path):
    assert "Nothing is measured yet" in measured.fill(_page(), "an_op", tmp_path)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "met"),
        ({"value": 31.9}, "missed"),
        ({"target": None}, ""),
        ({"at_most": True}, "missed"),
        ({"at_most": True, "value": 3.0}, "met"),
    ],
)
def test_verdicts(change, verdict):
    assert dataclasses.replace(FAST, **change).verdict == verdict
