"""What can be shown of one revision, read from its folder anew each time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from node.compute_job import METRICS_FILE, OUTPUT_FOLDER, REPORT_PAGE, RESULTS_FOLDER
from node.config import Config
from node.errors import NodeError
from node.index.computed import ComputedRevision
from node.view_files import (
    DOCUMENT_FILE,
    VIEW_FOLDER,
    PlaneCut,
    ViewAbsentError,
    read_contours,
    read_document,
    read_plane,
)
from node.web.review.report_pictures import ReportPicture, registration_pictures

PlaneName = Literal["axial", "sagittal", "coronal"]


class NotShownError(NodeError):
    """What was asked for does not exist."""


@dataclass(frozen=True, slots=True)
class ShownRevision:
    """The folder of one revision.

    Attributes:
        computed: Which revision.
        folder: Where its result set lies; made of what the index says, of nothing else.
    """

    computed: ComputedRevision
    folder: Path

    @classmethod
    def of(cls, config: Config, computed: ComputedRevision) -> "ShownRevision":
        """Return the folder of a revision that the index knows."""
        folder = config.node.data / RESULTS_FOLDER / computed.case_id / str(computed.revision)
        return cls(computed, folder)

    def document(self) -> dict[str, Any]:
        """Return what a page must know before it asks for pictures.

        Raises:
            ViewAbsentError: The pictures are not there.
        """
        return {**self._told(), **read_document(self.folder / VIEW_FOLDER)}

    def contours(self) -> bytes:
        """Return the outlines as JSON, compressed by gzip.

        Raises:
            ViewAbsentError: They are not there.
        """
        return read_contours(self.folder / VIEW_FOLDER)

    def stamp(self) -> str:
        """Return what tells these pictures from those of any other revision or making."""
        try:
            made_ns = (self.folder / VIEW_FOLDER / DOCUMENT_FILE).stat().st_mtime_ns
        except OSError:
            made_ns = 0
        return f"{self.computed.case_id}.{self.computed.revision}.{made_ns:x}"

    def plane(self, series: str, plane: PlaneName, index: int) -> npt.NDArray[np.int16]:
        """Return one plane of a volume, rows from the top left, little-endian.

        Raises:
            ViewAbsentError: The pictures are not there.
            NotShownError: There is no such volume, or the index lies outside of it.
        """
        folder = self.folder / VIEW_FOLDER
        document = read_document(folder)
        found = next((each for each in document["series"] if each["key"] == series), None)
        if found is None:
            raise NotShownError("this case has no such volume")
        told = document["planes"][plane]
        last = int(told["count"]) - 1
        if not 0 <= index <= last:
            raise NotShownError(f"there is no such {plane} plane; the last is {last}")
        cut = PlaneCut.of(told, index)
        return read_plane(folder, found, document["geometry"]["shape"], cut)

    def metrics(self) -> dict[str, Any]:
        """Return the content of `metrics.json`.

        Raises:
            NotShownError: It is not there any more.
        """
        path = self.folder / OUTPUT_FOLDER / METRICS_FILE
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise NotShownError(
                "the results of this revision are no longer on this node"
            ) from error
        return found

    def dose(self) -> dict[str, Any]:
        """Return what the metrics say of dose: the histograms and limits of each plan.

        Raises:
            NotShownError: The results are not there any more.
        """
        return {**self._told(), "dose": self.metrics()["dose"]}

    def registration_pictures(self) -> dict[int, ReportPicture]:
        """Return the pictures of registrations that stand in the report, by number."""
        return registration_pictures(self.folder / OUTPUT_FOLDER / REPORT_PAGE)

    def has_pictures(self) -> bool:
        """Return whether the pictures are there."""
        try:
            read_document(self.folder / VIEW_FOLDER)
        except ViewAbsentError:
            return False
        return True

    def _told(self) -> dict[str, Any]:
        return {
            "case_id": self.computed.case_id,
            "revision": self.computed.revision,
            "newest_revision": self.computed.newest,
        }
