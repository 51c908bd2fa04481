"""`hilum query`: ask a configured peer what it holds, and have a series sent to the node."""

from typing import Annotated

import typer

from node.config import Config, Peer, Role, read_config
from node.console import OUT, ConfigOption, JsonOption, clean, peer_to_call, print_json
from node.errors import NodeError
from node.query.find import Found, Match, Questions, open_questions
from node.query.retrieve import Line, Wanted, move

SHOWN = {
    "study": ("StudyDate", "ModalitiesInStudy", "StudyInstanceUID"),
    "series": (
        "Modality",
        "NumberOfSeriesRelatedInstances",
        "SeriesDescription",
        "SeriesInstanceUID",
    ),
    "image": ("SOPClassUID", "SOPInstanceUID"),
}
"""What is printed of each answer: nobody's name, no identifier of a patient."""


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("query")(query_peer)


def query_peer(
    peer: str,
    patient_id: Annotated[str, typer.Option(help="List the studies of this Patient ID.")] = "",
    study: Annotated[str, typer.Option(help="List the series of this study (UID).")] = "",
    series: Annotated[str, typer.Option(help="List the images of this series (UID).")] = "",
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Have the series sent to the running node (C-MOVE).")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a peer with the role `query` what it holds (C-FIND); have a series sent (C-MOVE)."""
    if not (patient_id or study) or (series and not study) or (fetch and not series):
        raise NodeError(
            "nothing to ask",
            hint="give --patient-id, or --study, or --study and --series; --fetch wants a series",
        )
    settings = read_config(config)
    asked = _queried(settings, peer)
    if fetch:
        _fetch(settings, asked, Wanted(study, series, patient_id=patient_id), as_json=as_json)
        return
    with open_questions(
        asked,
        settings.node.ae_title,
        timeout_s=settings.node.network_timeout_s,
        tls=settings.tls,
    ) as questions:
        level, found = _asked(questions, patient_id, study, series)
    rows = [_row(level, match) for match in found.matches]
    if as_json:
        print_json({"matches": rows, "unfit": found.unfit, "is_cut": found.is_cut})
        return
    for row in rows:
        OUT.print("\t".join(map(clean, row.values())))
    OUT.print(_summary(peer, found))


def _queried(settings: Config, name: str) -> Peer:
    """Return the peer of that name, which may be asked.

    Raises:
        NodeError: There is none, or it lacks the role.
    """
    peer = peer_to_call(settings, name)
    if Role.QUERY not in peer.roles:
        known = ", ".join(p.name for p in settings.peer if Role.QUERY in p.roles) or "none"
        raise NodeError(
            f"peer {name!r} has not the role 'query'", hint=f"those that have it: {known}"
        )
    return peer


def _asked(questions: Questions, patient_id: str, study: str, series: str) -> tuple[str, Found]:
    if series:
        return "image", questions.images(study, series, patient_id)
    if study:
        return "series", questions.series(study, patient_id)
    return "study", questions.studies(patient_id)


def _row(level: str, match: Match) -> dict[str, str]:
    return {keyword: match[keyword] for keyword in SHOWN[level]}


def _summary(peer: str, found: Found) -> str:
    text = f"{peer} answered {len(found.matches)}"
    if found.is_cut:
        text += ", and had more to say"
    if found.unfit:
        text += f"; {found.unfit} answers could not be used"
    return text


def _fetch(settings: Config, peer: Peer, wanted: Wanted, *, as_json: bool) -> None:
    node = settings.node
    line = Line(peer, node.ae_title, node.network_timeout_s, settings.tls)
    # nothing of the listener is seen from here: the peer must answer in time by itself
    sent = move(line, wanted, moved=lambda: 0)
    if as_json:
        print_json({"completed": sent.completed, "warned": sent.warned, "failed": sent.failed})
    else:
        text = f"{peer.name} says that it sent {sent.completed} objects"
        OUT.print(f"{text}, {sent.failed} failed" if sent.failed else text)
    if sent.failed:
        raise typer.Exit(1)
