"""`hilum lint`: what a planning system or an archive will refuse or misread in DICOM files."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from node.console import ERR, FAILED, WRONG_USE, JsonOption, clean, print_json


class System(StrEnum):
    """Planning systems whose importers' habits are known."""

    ECLIPSE = "eclipse"
    RAYSTATION = "raystation"
    MONACO = "monaco"
    PINNACLE = "pinnacle"


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("lint")(lint_files)


def lint_files(
    files: Annotated[
        list[Path] | None, typer.Argument(help="DICOM files and folders of them.")
    ] = None,
    tps: Annotated[
        list[System] | None, typer.Option(help="Also what this planning system refuses.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Tell each problem, not three alike.")] = (
        False
    ),
    rules: Annotated[bool, typer.Option("--rules", help="List all rules and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find what a planning system or an archive will refuse or misread in DICOM files.

    Give the images together with what refers to them. Items of sequences are counted from 1. Exit
    status: 0 no error, 1 errors, 2 called wrongly.
    """
    from handlers.lint import lint  # a second of imports that no other command needs
    from node.lint_files import document, read_files, tell, tell_rules

    if rules:
        tell_rules(as_json=as_json)
        return
    if not files:
        ERR.print(
            "no files: name DICOM files or folders of them (--rules lists what is looked for)"
        )
        raise typer.Exit(WRONG_USE)
    absent = [path for path in files if not path.exists()]
    if absent:
        for path in absent:
            ERR.print(clean(f"{path}: no such file or folder"))
        raise typer.Exit(WRONG_USE)
    given = read_files(files)
    report = lint(given.subjects, [system.value for system in tps or ()])
    if as_json:
        print_json(document(report, given))
    else:
        tell(report, given, every=every)
    if report.errors or given.broken or (strict and report.problems):
        raise typer.Exit(FAILED)
