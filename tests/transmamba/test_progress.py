"""What a training shows in a terminal, and what remains of it in a file."""

import io

import pytest

rich_console = pytest.importorskip("rich.console")


@pytest.mark.parametrize("terminal", [True, False])
def test_bar(terminal):
    from transmamba.progress import Bar

    file = io.StringIO()
    console = rich_console.Console(file=file, force_terminal=terminal, width=100, color_system=None)
    with Bar(console) as bar:
        bar.start("teacher", 4, 0)
        bar.start("distill", 4, 1)
        bar.step(0.5)
        bar.epoch({"accuracy": 0.75, "step": 2, "epoch": 1}, "accuracy 75.00%")
        bar._progress.refresh()
    text = file.getvalue()
    assert "distill: going on after step 1 of 4" in text
    for shown in ("2/4", "loss 0.500", "accuracy 75.00%"):
        assert (shown in text) is terminal
