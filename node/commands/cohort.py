"""`hilum cohort`: the cases of a department as one table, with paired statistics and a plot."""

from pathlib import Path
from typing import Annotated

import typer

from node.config import read_config
from node.console import ERR, ConfigOption, JsonOption, open_index, print_json
from node.errors import NodeError

PLOT_FORMATS = (".png", ".pdf", ".svg")
"""Suffixes by which the format of a plot is chosen."""


def add_commands(app: typer.Typer) -> None:
    """Add `hilum cohort` to the command line."""
    app.command()(cohort)


def cohort(
    config: ConfigOption = None,
    protocol: Annotated[
        str | None, typer.Option(help="Only cases of this protocol; without it, of all.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Also write one line for each target.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help=f"Also draw Bland-Altman plots ({', '.join(PLOT_FORMATS)})."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare drawn and refined targets over all delivered cases."""
    from node import cohort as study

    if plot is not None and plot.suffix.lower() not in PLOT_FORMATS:
        raise NodeError(
            f"{plot.name}: no format of a plot", hint=f"end it with {', '.join(PLOT_FORMATS)}"
        )
    settings = read_config(config)
    with open_index(settings) as index:
        documents, lost = study.documents_of(index, settings.node.data, protocol)
    if lost:
        ERR.print(f"{lost} delivered cases left out: their result files are gone")
    rows = study.cohort_rows(documents)
    if not rows:
        raise NodeError(
            "no delivered case" + (f" of protocol {protocol!r}" if protocol else ""),
            hint="`hilum cases list` shows them",
        )
    if csv_file is not None:
        study.write_csv(csv_file, rows)
    if plot is not None:
        study.plot_agreement(rows, plot)
    if as_json:
        print_json(study.as_document(rows))
    else:
        study.tell(rows)
