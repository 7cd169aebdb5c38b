"""What all pictures have in common: a figure that needs no display, a look, PNG."""

from __future__ import annotations

import io
from typing import Any


def new_figure(width: float, height: float, dpi: int) -> Any:
    """An empty ``matplotlib`` figure of so many inches, with the means to be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Any, form: str) -> None:
    """Give axes the look of our curves; a ``form`` in per cent, such as a metric's, makes the vertical one so."""
    from matplotlib.ticker import PercentFormatter

    if form.endswith("%"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def to_png(figure: Any) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.canvas.print_png(buffer)
    return buffer.getvalue()
