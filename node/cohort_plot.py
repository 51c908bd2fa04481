"""The Bland-Altman plots of a cohort: how far refined and drawn targets agree."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from handlers.cohort import FIGURES, CohortRow, paired_values, summarize
from node.errors import NodeError

SHOWN = ("volume_cm3", "ci_paddick")
"""Figures that get a plot of their own, where there are pairs."""


def plot_agreement(rows: Sequence[CohortRow], path: Path) -> None:
    """Draw, side by side, the difference of each pair over its mean; the suffix is the format.

    Raises:
        NodeError: There is no pair, or the file cannot be written.
    """
    shown = [summary for summary in summarize(rows) if summary.key in SHOWN]
    if not shown:
        raise NodeError("no target was refined: there is nothing to plot")
    figure = Figure(figsize=(6.0 * len(shown), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for place, summary in enumerate(shown, start=1):
        axes = figure.add_subplot(1, len(shown), place)
        drawn, refined = paired_values(rows, summary.key)
        axes.plot((drawn + refined) / 2, refined - drawn, "o", color="black", fillstyle="none")
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.axhline(summary.bias, color="black", label=f"bias {summary.bias:+.3g}")
        if summary.agreement is not None:
            low, high = summary.agreement
            told = f"limits of agreement {low:+.3g}, {high:+.3g}"
            for at, label in ((low, told), (high, "_")):
                axes.axhline(at, color="black", linestyle="--", label=label)
        name = FIGURES[summary.key]
        axes.set_title(f"{name}, {summary.pairs} targets")
        axes.set_xlabel(f"Mean of drawn and refined: {name}")
        axes.set_ylabel("Refined minus drawn")
        axes.margins(y=0.25)
        axes.legend(loc="upper right", fontsize="small", frameon=False)
    try:
        figure.savefig(path, dpi=150, metadata=None)
    except OSError as error:
        raise NodeError(f"{path} cannot be written: {error.strerror}") from error
