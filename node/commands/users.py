"""`hilum users` and `hilum tokens`: who may look at the page, and which programs may ask.

Passwords are read from the terminal or from the standard input: an argument would stand in the list
of processes and in the shell's history.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from node.audit.events import AuditEvent, Kind
from node.audit.trail import tell_from_command
from node.config import Config, read_config
from node.console import OUT, PRIVATE, ConfigOption, JsonOption, print_json
from node.errors import NodeError
from node.index import Index
from node.index.access import AccessBook, Token, User
from node.index.access_rows import LONGEST_NAME
from node.ownership import give_to_owner
from node.web.access.cookies import new_secret
from node.web.access.roles import WebRole

users_app = typer.Typer(help="Who may look at the page.", no_args_is_help=True)
tokens_app = typer.Typer(help="Which programs may ask the page.", no_args_is_help=True)

RoleOption = Annotated[
    WebRole, typer.Option("--role", help="view: look at everything; operate: also act.")
]
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the standard input.")
]

_NAME = re.compile(rf"[a-z0-9][a-z0-9._@-]{{0,{LONGEST_NAME - 1}}}")

LONGEST_TOKEN_DAYS = 3650


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(users_app, name="users")
    app.add_typer(tokens_app, name="tokens")


@users_app.command("list")
def list_users(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List who may log in."""
    with _access(read_config(config)) as book:
        users = book.users()
    if as_json:
        print_json([_user_document(user) for user in users])
        return
    table = Table("user", "role", "last login (UTC)", "password of (UTC)")
    for user in users:
        table.add_row(user.name, user.role, _told(user.seen_at), _told(user.password_at))
    OUT.print(table)


@users_app.command("add")
def add_user(
    name: str,
    role: RoleOption = WebRole.VIEW,
    password_stdin: StdinOption = False,
    config: ConfigOption = None,
) -> None:
    """Let a person log in."""
    settings, known_as = read_config(config), _checked_name(name)
    with _access(settings, f"add user, {role}", known_as) as book:
        if book.user(known_as) is not None:
            raise NodeError(f"there is a user {known_as!r} already", hint="choose another name")
        kept = _new_password(known_as, from_stdin=password_stdin)
        is_first = not book.has_users()
        book.add_user(known_as, role, kept, datetime.now(UTC))
    OUT.print(f"{known_as} may log in, with the role {role}")
    if is_first:
        OUT.print("from now on the page asks everybody to log in, at this machine, too")


@users_app.command("password")
def change_password(
    name: str, password_stdin: StdinOption = False, config: ConfigOption = None
) -> None:
    """Give a user another password; wherever they are logged in, they are logged out."""
    settings, known_as = read_config(config), name.casefold()
    with _access(settings, "set password", known_as) as book:
        if book.user(known_as) is None:
            raise NodeError(f"no user {known_as!r}", hint="`hilum users list` shows them")
        kept = _new_password(known_as, from_stdin=password_stdin)
        book.set_password(known_as, kept, datetime.now(UTC))
    OUT.print(f"{known_as} has another password and is logged out everywhere")


@users_app.command("role")
def change_role(name: str, role: WebRole, config: ConfigOption = None) -> None:
    """Give a user another role; wherever they are logged in, they are logged out."""
    with _access(read_config(config), f"set role {role}", name.casefold()) as book:
        book.set_role(name.casefold(), role)
    OUT.print(f"{name.casefold()} has the role {role} and is logged out everywhere")


@users_app.command("remove")
def remove_user(name: str, config: ConfigOption = None) -> None:
    """Let a person log in no longer."""
    settings = read_config(config)
    with _access(settings, "remove user", name.casefold()) as book:
        book.remove_user(name.casefold())
        is_last = not book.has_users()
    OUT.print(f"{name.casefold()} is removed and logged out everywhere")
    if is_last and not settings.web.needs_login:
        OUT.print("there is no user left: whoever sits at this machine may use the page")


@tokens_app.command("list")
def list_tokens(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List which programs may ask, and when they last did; the tokens themselves are not kept."""
    with _access(read_config(config)) as book:
        tokens = book.tokens()
    now = datetime.now(UTC)
    if as_json:
        print_json([asdict(token) | {"has_expired": token.expires_at <= now} for token in tokens])
        return
    table = Table("token", "role", "made (UTC)", "last use (UTC)", "ends (UTC)")
    for token in tokens:
        table.add_row(*_token_row(token, now))
    OUT.print(table)


@tokens_app.command("add")
def add_token(
    name: str,
    role: RoleOption = WebRole.VIEW,
    days: Annotated[
        int, typer.Option(min=1, max=LONGEST_TOKEN_DAYS, help="So long it counts.")
    ] = 365,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a program ask. The token is shown this once: it is not kept."""
    known_as, now = _checked_name(name), datetime.now(UTC)
    secret, ends = new_secret(), now + timedelta(days=days)
    with _access(read_config(config), f"add token, {role}", known_as) as book:
        book.add_token(known_as, role, secret, ends, now)
    if as_json:
        print_json({"name": known_as, "role": role, "expires_at": ends, "token": secret})
        return
    OUT.print(f"{known_as} may ask until {_told(ends)} UTC, with the role {role}, by the header")
    OUT.print(f"Authorization: Bearer {secret}")
    OUT.print("keep it now: it cannot be shown again")


@tokens_app.command("revoke")
def revoke_token(name: str, config: ConfigOption = None) -> None:
    """Let a program ask no longer."""
    with _access(read_config(config), "revoke token", name.casefold()) as book:
        book.remove_token(name.casefold())
    OUT.print(f"the token {name.casefold()} counts no longer")


@contextmanager
def _access(config: Config, action: str = "", user: str = "") -> Iterator[AccessBook]:
    """Give the users of a node, which need not have worked yet: it may wait for the first.

    An action that was carried out stands in the audit trail.
    """
    os.umask(PRIVATE)
    index = Index(config.node.database_url)
    index.create()
    if config.node.database is None:
        give_to_owner(config.node.data, config.node.data / "index.sqlite")
    try:
        yield AccessBook(index)
        if action:
            tell = tell_from_command(config, index, lambda: datetime.now(UTC))
            tell(AuditEvent(Kind.ACCOUNT_CHANGED, what={"action": action, "user": user}))
    finally:
        index.close()


def _new_password(user: str, *, from_stdin: bool) -> str:
    """Return what is kept of a new password.

    Raises:
        NodeError: It is too weak, or nobody can be asked.
    """
    # imported here: no other command needs argon2
    from node.web.access.passwords import hashed_password

    if from_stdin:
        return hashed_password(sys.stdin.readline().rstrip("\r\n"), user)
    if not sys.stdin.isatty():
        raise NodeError("there is no terminal to ask for the password", hint="use --password-stdin")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return hashed_password(password, user)


def _checked_name(name: str) -> str:
    """Return the name of a new user or token.

    Raises:
        NodeError: It cannot be one.
    """
    folded = name.casefold()
    if not _NAME.fullmatch(folded):
        raise NodeError(
            "this name cannot be used",
            hint=f"up to {LONGEST_NAME} letters, digits and . _ @ -, a letter or digit first",
        )
    return folded


def _user_document(user: User) -> dict[str, object]:
    return {key: value for key, value in asdict(user).items() if key != "password_hash"}


def _token_row(token: Token, now: datetime) -> tuple[str, ...]:
    ends = _told(token.expires_at) + (" (expired)" if token.expires_at <= now else "")
    return token.name, token.role, _told(token.created_at), _told(token.used_at), ends


def _told(at: datetime | None) -> str:
    return "never" if at is None else at.strftime("%Y-%m-%d %H:%M")
