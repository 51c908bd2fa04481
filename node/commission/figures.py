"""The pictures of the report as PNG: plots of errors, and CT against MR as a checkerboard.

Draws what it is given; nothing of a header is ever drawn.
"""

import io
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydicom import Dataset
from scipy import ndimage

from handlers.decode.images import decode_series
from handlers.values import Image

REACH_MM = 75.0
STEP_MM = 0.75
TILE_MM = 25.0
CT_WINDOW_HU = (-110.0, 240.0)
DPI = 150
STATUS_COLORS = {"pass": "#1b7837", "warn": "#e08214", "fail": "#b2182b"}

Pixels = npt.NDArray[np.float64]


def checkerboard(
    ct: Sequence[Dataset],
    result_folder: Path,
    mr_instance_uids: Collection[str],
    centre_mm: Sequence[float],
) -> bytes | None:
    """Return CT against the resampled MR through a point: axial, coronal, sagittal.

    Args:
        ct: The images of the planning CT.
        result_folder: A result set.
        mr_instance_uids: The original images of the series to be shown.
        centre_mm: LPS mm in the CT's frame.

    Returns:
        PNG, or None where the result set holds no such series (the registration failed).
    """
    shown = _resampled(result_folder, mr_instance_uids)
    below = decode_series(ct, "CT").image
    if shown is None or below is None:
        return None
    figure = Figure(figsize=(7.2, 2.4), dpi=DPI)
    FigureCanvasAgg(figure)
    for place, axis in enumerate((2, 1, 0)):
        points, shape = _plane(centre_mm, axis)
        low, high = CT_WINDOW_HU
        under = np.clip((_sampled(below, points) - low) / (high - low), 0, 1).reshape(shape)
        signal = _sampled(shown, points).reshape(shape)
        over = np.clip(signal / max(float(np.percentile(signal, 97)), 1e-6), 0, 1)
        rows, columns = np.indices(shape)
        tile = TILE_MM / STEP_MM
        is_ct = (np.floor(rows / tile) + np.floor(columns / tile)) % 2 == 0
        view = figure.add_axes((place / 3, 0.0, 0.327, 1.0))
        view.imshow(np.where(is_ct, under, over), cmap="gray", vmin=0, vmax=1)
        middle = (shape[0] - 1) / 2
        view.plot([middle], [middle], "+", color="#ffd200", markersize=7, markeredgewidth=0.8)
        view.axis("off")
    return _png(figure)


def _resampled(folder: Path, instance_uids: Collection[str]) -> Image | None:
    for series in sorted(folder.glob("MR_*")):
        datasets = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
        sources = {
            str(item.ReferencedSOPInstanceUID)
            for ds in datasets[:1]
            for item in ds.get("SourceImageSequence", [])
        }
        if sources & set(instance_uids):
            return decode_series(datasets, "MR").image
    return None


def _plane(centre_mm: Sequence[float], normal: int) -> tuple[Pixels, tuple[int, int]]:
    """Return the points of a plane, seen as radiologists do: feet below, patient's left at right.

    Args:
        centre_mm: Its middle.
        normal: 2 axial, 1 coronal, 0 sagittal.
    """
    steps = np.arange(-REACH_MM, REACH_MM + STEP_MM / 2, STEP_MM)
    across, down = {2: (0, 1), 1: (0, 2), 0: (1, 2)}[normal]
    points = np.tile(np.asarray(centre_mm, dtype=np.float64), (len(steps), len(steps), 1))
    points[..., across] += steps[None, :]
    points[..., down] += steps[:, None] * (1.0 if down == 1 else -1.0)
    return points.reshape(-1, 3), (len(steps), len(steps))


def _sampled(image: Image, points: Pixels) -> Pixels:
    index = image.geometry.indices_from_points(points).T
    outside = float(image.voxels.min())
    found = ndimage.map_coordinates(image.voxels, index, order=1, cval=outside)
    return np.asarray(found, dtype=np.float64)


def error_distribution(errors_mm: dict[str, tuple[str, Pixels]]) -> bytes:
    """Return a box for each case: landmark errors within 40 mm of the target.

    Args:
        errors_mm: Verdict and errors by name of the case.
    """
    figure = Figure(figsize=(7.2, 3.0), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    boxes = axes.boxplot(
        [e for _, e in errors_mm.values()],
        whis=(5, 95),
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black"},
    )
    for box, (status, _) in zip(boxes["boxes"], errors_mm.values(), strict=True):
        box.set_facecolor(STATUS_COLORS.get(status, "#999999"))
        box.set_alpha(0.7)
    axes.set_xticks(range(1, len(errors_mm) + 1), list(errors_mm), rotation=40, ha="right")
    axes.set_ylabel("TRE within 40 mm, mm")
    axes.set_ylim(bottom=0)
    _colored_key(axes, [status for status, _ in errors_mm.values()])
    _plain(axes)
    return _png(figure)


def error_against_uncertainty(points: Sequence[tuple[str, str, float, float]]) -> bytes:
    """Return a plot of the true error at the target against what was stated.

    Args:
        points: Name of the case, verdict, stated uncertainty and true error in mm.
    """
    figure = Figure(figsize=(4.6, 3.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    end = 1.08 * max(max(stated, error) for *_, stated, error in points)
    axes.fill_between([0, end], [0, end], [end, end], color="#b2182b", alpha=0.08, linewidth=0)
    axes.plot([0, end], [0, end], color="#777777", linewidth=0.8)
    for status, color in STATUS_COLORS.items():
        at = [(stated, error) for _, verdict, stated, error in points if verdict == status]
        if at:
            axes.plot(*zip(*at, strict=True), "o", color=color, label=status, markersize=5)
    axes.text(0.03 * end, 0.93 * end, "error larger than stated", fontsize=7, color="#b2182b")
    axes.set_xlim(0, end)
    axes.set_ylim(0, end)
    axes.set_xlabel("stated uncertainty, mm")
    axes.set_ylabel("true error at the target, mm")
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    _plain(axes)
    return _png(figure)


def _colored_key(axes: Axes, present: Collection[str]) -> None:
    for status, color in STATUS_COLORS.items():
        if status in present:
            axes.plot([], [], "s", color=color, alpha=0.7, label=status)
    axes.legend(fontsize=7, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
