"""The files of a revision: which there are, one of them, all of them as one archive."""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, cast

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse

from node.audit.events import AuditEvent, Kind
from node.compute_job import METRICS_FILE, OUTPUT_FOLDER, REPORT_FILES, RESULTS_FOLDER
from node.index.case_stories import patient_key_of_case
from node.web.access.actor import Actor, Viewer
from node.web.access.headers import sandboxed
from node.web.api.documents import CaseId, Document, Revision
from node.web.desk import Desk

CHUNK_BYTES = 1 << 20

_TYPES = {
    ".dcm": "application/dicom",
    ".json": "application/json",
    ".pdf": "application/pdf",
    ".html": "text/html; charset=utf-8",
    ".vtk": "application/octet-stream",
}
_SHOWN = (*REPORT_FILES, METRICS_FILE)
"""Files that a browser shows; it saves the others."""


class ResultFile(Document):
    """A file of a revision; `name` is relative to its folder."""

    name: str
    size_bytes: int


class ResultFiles(Document):
    """The files of a revision; none if they were removed."""

    case_id: str
    revision: int
    files: tuple[ResultFile, ...]


def result_paths(desk: Desk, case_id: str, revision: int) -> dict[str, Path]:
    """Return the files of a revision by name; nothing that was asked for is part of a path.

    Args:
        desk: Whose results.
        case_id: Of a case that the index knows.
        revision: Of that case.
    """
    folder = desk.config.node.data / RESULTS_FOLDER / case_id / str(revision) / OUTPUT_FOLDER
    if not folder.is_dir():
        return {}
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in found}


def result_files(desk: Desk, case_id: str, revision: int) -> ResultFiles:
    """Return which files a revision has."""
    paths = result_paths(desk, case_id, revision)
    files = tuple(
        ResultFile(name=name, size_bytes=path.stat().st_size) for name, path in paths.items()
    )
    return ResultFiles(case_id=case_id, revision=revision, files=files)


def archive_parts(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """Give a ZIP archive of files piece by piece: it is nowhere as a whole."""
    sink = _Sink()
    with zipfile.ZipFile(cast(IO[bytes], sink), "w", zipfile.ZIP_STORED) as archive:
        for name, path in files:
            entry = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
            with path.open("rb") as source, archive.open(entry, "w") as target:
                while piece := source.read(CHUNK_BYTES):
                    target.write(piece)
                    yield sink.take()
    yield sink.take()


class _Sink:
    """Takes what the archive writes until it is taken away; it cannot be wound back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def result_routes(desk: Desk) -> APIRouter:
    """Return the addresses of files."""
    routes = APIRouter(prefix="/cases/{case_id}/revisions/{revision}")
    _add_files(routes, desk)
    _add_archive(routes, desk)
    return routes


def _add_files(routes: APIRouter, desk: Desk) -> None:
    @routes.get("/results", summary="Files of a revision")
    def list_results(case_id: CaseId, revision: Revision, actor: Viewer) -> ResultFiles:  # noqa: ARG001
        """Return the names and sizes of the files."""
        _patient_of(desk, case_id)
        return result_files(desk, case_id, revision)

    @routes.get(
        "/results/{name:path}",
        summary="One file",
        response_class=FileResponse,
        responses={200: {"content": {kind: {} for kind in _TYPES.values()}}},
    )
    def one_file(
        request: Request, case_id: CaseId, revision: Revision, name: str, actor: Viewer
    ) -> Response:
        """Return a file as it is; a browser shows the report and saves all else."""
        patient_key = _patient_of(desk, case_id)
        path = result_paths(desk, case_id, revision).get(name)
        if path is None:
            raise HTTPException(404, "this revision has no such file, or it was removed")
        _tell(desk, request, actor, case_id, patient_key)
        is_shown = name in _SHOWN
        return FileResponse(
            path,
            media_type=_TYPES.get(path.suffix, "application/octet-stream"),
            filename=f"{case_id}-{revision}-{path.name}",
            content_disposition_type="inline" if is_shown else "attachment",
            headers=sandboxed() if path.suffix == ".html" else None,
        )


def _add_archive(routes: APIRouter, desk: Desk) -> None:
    @routes.get(
        "/archive",
        summary="All files as a ZIP archive",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/zip": {}}}},
    )
    def archive(
        request: Request,
        case_id: CaseId,
        revision: Revision,
        actor: Viewer,
        folder: Annotated[str, Query(max_length=64, description="Only this folder of them.")] = "",
    ) -> Response:
        """Return all files, or those of one folder, as one archive, not compressed."""
        patient_key = _patient_of(desk, case_id)
        paths = result_paths(desk, case_id, revision)
        chosen = [(n, p) for n, p in paths.items() if not folder or n.startswith(f"{folder}/")]
        if not chosen:
            raise HTTPException(404, "this revision has no such files, or they were removed")
        _tell(desk, request, actor, case_id, patient_key)
        name = f"{case_id}-{revision}.zip"
        return StreamingResponse(
            archive_parts(chosen),
            media_type="application/zip",
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )


def _patient_of(desk: Desk, case_id: str) -> str:
    found = patient_key_of_case(desk.index, case_id)
    if found is None:
        raise HTTPException(404, "there is no case of that id")
    return found


def _tell(desk: Desk, request: Request, actor: Actor, case_id: str, patient_key: str) -> None:
    """Tell the audit trail that results leave the node."""
    what = {"case_id": case_id, "patient_key": patient_key}
    desk.audit(AuditEvent(Kind.EXPORTED, actor.name, request.state.address, "success", what))
