"""The review view as a browser shows it, read for comparison with what was sent.

Places come from the document of the page; what lies there is looked up by the caller.
"""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from handlers.values import Case
from tests.chromium import Chromium

VIEW = "const view = document.getElementById('review').view;"
"""Begins a script that speaks of the view."""


def all_shown() -> str:
    """Return a script that tells whether every plane that can be seen shows what it should."""
    return (
        f"{VIEW} return view && view.views.every("
        "(v) => !v.isShown || (v.isCurrent && v.shown === v.index))"
    )


def shown_index(browser: Chromium, plane: str) -> int:
    return int(browser.run(f"{VIEW} return view.viewOf(arguments[0]).shown", plane))


def wait_for_index(browser: Chromium, plane: str, index: int) -> None:
    script = f"{VIEW} return view.viewOf(arguments[0]).shown === arguments[1]"
    browser.until(script, plane, index, what=f"{plane} plane {index}")


def canvas_of(browser: Chromium, plane: str) -> Any:
    return browser.driver.find_element("css selector", f'canvas[data-plane="{plane}"]')


def picture(browser: Chromium, plane: str) -> np.ndarray:
    """Return the pixels of a plane's canvas, shape (rows, columns, 3)."""
    address: str = browser.run(
        'return document.querySelector(`canvas[data-plane="${arguments[0]}"]`).toDataURL()', plane
    )
    content = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def change(browser: Chromium, parts: str) -> None:
    """Change the state of the view, and wait until it is drawn."""
    browser.driver.execute_async_script(
        f"{VIEW} view.change({parts}); const done = arguments[0];"
        "requestAnimationFrame(() => requestAnimationFrame(done));"
    )
    browser.until(all_shown(), what="the pictures")


def told_planes(browser: Chromium) -> dict[str, Any]:
    found: dict[str, Any] = browser.run(f"{VIEW} return view.document.planes")
    return found


def voxels_of(told: dict[str, Any], index: int, case: Case) -> np.ndarray:
    """Return the voxel (slice, row, column) of each pixel of a plane, by the document's places."""
    rows, columns = np.mgrid[: told["rows"], : told["columns"]]
    points = (
        np.array(told["origin_mm"])
        + index * np.array(told["step_mm"])
        + rows[..., None] * np.array(told["row_step_mm"])
        + columns[..., None] * np.array(told["column_step_mm"])
    )
    at = case.ct.geometry.indices_from_points(points.reshape(-1, 3))
    voxels = np.rint(at)
    assert np.abs(at - voxels).max() < 1e-4, "a pixel lies between voxels"
    return voxels.astype(int).reshape(*rows.shape, 3)


def outlines(browser: Chromium, number: int, plane: str, index: int) -> list[np.ndarray]:
    """Return the closed lines of an ROI on a plane, each (n, 2) of column and row."""
    found = browser.run(
        f"{VIEW} return view.outlines.of(arguments[0], arguments[1], arguments[2])"
        ".map((line) => Array.from(line))",
        number,
        plane,
        index,
    )
    return [np.array(line).reshape(-1, 2) for line in found]


def inside_of(lines: list[np.ndarray], rows: int, columns: int) -> np.ndarray:
    """Return which pixel centres lie in closed lines, by the even-odd rule."""
    inside = np.zeros((rows, columns), dtype=bool)
    across = np.arange(columns)
    for line in lines:
        for (x1, y1), (x2, y2) in zip(line, np.roll(line, -1, axis=0), strict=True):
            low, high = sorted((y1, y2))
            for row in range(max(0, int(np.ceil(low))), min(rows, int(np.ceil(high)))):
                inside[row] ^= across > x1 + (row - y1) * (x2 - x1) / (y2 - y1)
    return inside


def distance_to(lines: list[np.ndarray], pixel: np.ndarray) -> float:
    """Return how far a place lies from the nearest of some closed lines, in pixels."""
    return float(np.linalg.norm(offset_from(lines, pixel)))


def offset_from(lines: list[np.ndarray], pixel: np.ndarray) -> np.ndarray:
    """Return the way from the nearest place on some closed lines to a place, in pixels."""
    ways = []
    for line in lines:
        ends = np.roll(line, -1, axis=0) - line
        squares = np.maximum((ends**2).sum(1), 1e-12)
        along = np.clip(((pixel - line) * ends).sum(1) / squares, 0, 1)
        ways.append(pixel - (line + along[:, None] * ends))
    every = np.concatenate(ways)
    found: np.ndarray = every[np.linalg.norm(every, axis=1).argmin()]
    return found


def choose(browser: Chromium, group: str, value: str) -> None:
    """Click on one of several choices, and wait until it is drawn."""
    selector = f'input[name="{group}"][value="{value}"]'
    browser.driver.find_element("css selector", selector).click()
    settle(browser)


def settle(browser: Chromium) -> None:
    change(browser, "{}")
