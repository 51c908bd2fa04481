"""Who may look at the page: users, sessions and tokens, as the index keeps them.

Knows no password and no rule for one: it is given hashes. What is random (sessions, tokens) is
hashed here, so that whoever reads the database, or a backup of it, can log in with nothing.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from node.errors import NodeError, StorageFullError
from node.index import Index
from node.index.access_rows import LONGEST_NAME, SESSIONS, TOKENS, USERS

TOUCH_AFTER = timedelta(minutes=1)
"""That a session or token is in use is written no more often than this."""

MOST_SESSIONS = 20
"""Of one user; a further login ends the one that was idle longest."""


@dataclass(frozen=True, slots=True)
class User:
    """A person who may log in.

    Attributes:
        name: In lower case.
        role: What they may do, a `WebRole`.
        password_hash: argon2id, in its own text form.
        seen_at: When they last logged in.
    """

    name: str
    role: str
    password_hash: str
    created_at: datetime
    password_at: datetime
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Token:
    """A program that may ask, until a day."""

    name: str
    role: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose session or token it is, and what they may do now."""

    name: str
    role: str


class AccessBook:
    """Users, sessions and tokens of one index.

    Args:
        index: Whose tables exist.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def has_users(self) -> bool:
        """Tell whether anybody can log in."""
        with self._index.read() as connection:
            return connection.execute(sa.select(USERS.c.name).limit(1)).first() is not None

    def users(self) -> Sequence[User]:
        """Return all users, by name."""
        with self._index.read() as connection:
            rows = connection.execute(sa.select(*_USER).order_by(USERS.c.name)).all()
        return [User(*row) for row in rows]

    def user(self, name: str) -> User | None:
        """Return the user of that name, or None."""
        with self._index.read() as connection:
            row = connection.execute(sa.select(*_USER).where(USERS.c.name == name)).first()
        return None if row is None else User(*row)

    def add_user(self, name: str, role: str, password_hash: str, now: datetime) -> None:
        """Let a person log in.

        Raises:
            NodeError: There is one of that name.
        """
        with self._index.begin() as connection:
            if connection.execute(sa.select(USERS.c.name).where(USERS.c.name == name)).first():
                raise NodeError(f"there is a user {name!r} already", hint="choose another name")
            connection.execute(
                USERS.insert().values(
                    name=name,
                    role=role,
                    password_hash=password_hash,
                    created_at=now,
                    password_at=now,
                )
            )

    def set_password(self, name: str, password_hash: str, now: datetime) -> None:
        """Give a user another password, and end all their sessions.

        Raises:
            NodeError: There is no such user.
        """
        self._change(name, password_hash=password_hash, password_at=now)

    def set_role(self, name: str, role: str) -> None:
        """Give a user another role, and end all their sessions.

        Raises:
            NodeError: There is no such user.
        """
        self._change(name, role=role)

    def remove_user(self, name: str) -> None:
        """Let a person log in no longer, and end all their sessions.

        Raises:
            NodeError: There is no such user.
        """
        with self._index.begin() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.user_name == name))
            if not connection.execute(USERS.delete().where(USERS.c.name == name)).rowcount:
                raise _no_user(name)

    def _change(self, name: str, **changes: object) -> None:
        with self._index.begin() as connection:
            changed = connection.execute(
                USERS.update().where(USERS.c.name == name).values(**changes)
            )
            if not changed.rowcount:
                raise _no_user(name)
            connection.execute(SESSIONS.delete().where(SESSIONS.c.user_name == name))

    def open_session(
        self, name: str, password_hash: str, secret: str, address: str, now: datetime
    ) -> bool:
        """Begin a session; tell whether it was begun.

        False where the user was removed or got another password since it was compared.

        Args:
            name: Who logged in.
            password_hash: What their password was compared with.
            secret: What tells the session: random, and kept by nobody but the browser.
            address: Where from.
            now: The time, aware.
        """
        is_theirs = sa.and_(USERS.c.name == name, USERS.c.password_hash == password_hash)
        with self._index.begin() as connection:
            if not connection.execute(USERS.update().where(is_theirs).values(seen_at=now)).rowcount:
                return False
            idle = (
                sa.select(SESSIONS.c.secret_hash)
                .where(SESSIONS.c.user_name == name)
                .order_by(SESSIONS.c.used_at.desc(), SESSIONS.c.secret_hash)
                .offset(MOST_SESSIONS - 1)
            )
            surplus = connection.execute(idle).scalars().all()
            connection.execute(SESSIONS.delete().where(SESSIONS.c.secret_hash.in_(surplus)))
            connection.execute(
                SESSIONS.insert().values(
                    secret_hash=_hashed(secret),
                    user_name=name,
                    address=address,
                    opened_at=now,
                    used_at=now,
                )
            )
        return True

    def session_holder(
        self, secret: str, now: datetime, *, idle: timedelta, longest: timedelta
    ) -> Holder | None:
        """Return whose session it is, if it still counts, and note that it is in use.

        Args:
            secret: What the browser showed.
            now: The time, aware.
            idle: So long a session may go unused.
            longest: So long a session may last.
        """
        found = SESSIONS.c.secret_hash == _hashed(secret)
        query = (
            sa.select(USERS.c.name, USERS.c.role, SESSIONS.c.used_at)
            .join_from(SESSIONS, USERS)
            .where(found, SESSIONS.c.used_at > now - idle, SESSIONS.c.opened_at > now - longest)
        )
        with self._index.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        if now - row.used_at >= TOUCH_AFTER:
            self._touch(SESSIONS.update().where(found).values(used_at=now))
        return Holder(row.name, row.role)

    def close_session(self, secret: str) -> None:
        """End a session, if there is one."""
        with self._index.begin() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.secret_hash == _hashed(secret)))

    def forget_sessions(self, now: datetime, *, idle: timedelta, longest: timedelta) -> None:
        """Remove sessions that no longer count."""
        with self._index.begin() as connection:
            connection.execute(
                SESSIONS.delete().where(
                    sa.or_(SESSIONS.c.used_at <= now - idle, SESSIONS.c.opened_at <= now - longest)
                )
            )

    def tokens(self) -> Sequence[Token]:
        """Return all tokens, by name."""
        with self._index.read() as connection:
            rows = connection.execute(sa.select(*_TOKEN).order_by(TOKENS.c.name)).all()
        return [Token(*row) for row in rows]

    def add_token(
        self, name: str, role: str, secret: str, expires_at: datetime, now: datetime
    ) -> None:
        """Let a program ask.

        Raises:
            NodeError: There is a token of that name.
        """
        with self._index.begin() as connection:
            if connection.execute(sa.select(TOKENS.c.name).where(TOKENS.c.name == name)).first():
                raise NodeError(
                    f"there is a token {name!r} already",
                    hint=f"choose another name, or first `hilum tokens revoke {name}`",
                )
            connection.execute(
                TOKENS.insert().values(
                    name=name,
                    secret_hash=_hashed(secret),
                    role=role,
                    created_at=now,
                    expires_at=expires_at,
                )
            )

    def remove_token(self, name: str) -> None:
        """Let a program ask no longer.

        Raises:
            NodeError: There is no such token.
        """
        with self._index.begin() as connection:
            if not connection.execute(TOKENS.delete().where(TOKENS.c.name == name)).rowcount:
                raise NodeError(f"no token {name!r}", hint="`hilum tokens list` shows them")

    def token_holder(self, secret: str, now: datetime) -> Holder | None:
        """Return whose token it is, if it still counts, and note that it is in use."""
        found = TOKENS.c.secret_hash == _hashed(secret)
        query = sa.select(*_TOKEN).where(found, TOKENS.c.expires_at > now)
        with self._index.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        if row.used_at is None or now - row.used_at >= TOUCH_AFTER:
            self._touch(TOKENS.update().where(found).values(used_at=now))
        return Holder(row.name, row.role)

    def _touch(self, statement: sa.Update) -> None:
        """Note a use; a full disk must not keep people from the page that tells them of it."""
        with suppress(StorageFullError), self._index.begin() as connection:
            connection.execute(statement)


_USER = (
    USERS.c.name,
    USERS.c.role,
    USERS.c.password_hash,
    USERS.c.created_at,
    USERS.c.password_at,
    USERS.c.seen_at,
)
_TOKEN = (
    TOKENS.c.name,
    TOKENS.c.role,
    TOKENS.c.created_at,
    TOKENS.c.expires_at,
    TOKENS.c.used_at,
)


def _hashed(secret: str) -> str:
    """Return what is kept of a random secret; at 256 bits it needs neither salt nor slowness."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _no_user(name: str) -> NodeError:
    shown = name[:LONGEST_NAME]
    return NodeError(f"no user {shown!r}", hint="`hilum users list` shows them")
