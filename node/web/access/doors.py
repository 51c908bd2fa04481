"""The ways in: sessions, tokens, and this machine's own; logging in and out.

Everything in here reads or writes the index and blocks: it is called in a thread.
"""

from datetime import timedelta

from node.errors import NodeError
from node.index import Index
from node.index.access import AccessBook, Holder
from node.web.access.actor import Actor, WebRole
from node.web.access.cookies import new_secret
from node.web.access.passwords import hashed_password, is_password
from node.web.desk import Desk
from node.web.section import WebSection


class WrongPasswordError(NodeError):
    """The password that somebody shows for their own is not theirs."""


def check_way_in(section: WebSection, index: Index) -> None:
    """Refuse a page that nobody could look at.

    Raises:
        NodeError: It needs a login, and there is no user.
    """
    if section.needs_login and not AccessBook(index).has_users():
        raise NodeError(
            "the page needs a login, and nobody can log in yet",
            hint="`hilum users add NAME --role operate` makes the first user; "
            "web.enabled = false starts without page",
        )


class Doors:
    """Who gets in.

    Args:
        desk: Whose users.
    """

    def __init__(self, desk: Desk) -> None:
        section = desk.config.web
        self._book = AccessBook(desk.index)
        self._clock = desk.clock
        self._needs_login = section.needs_login
        self._idle = timedelta(minutes=section.session_idle_min)
        self._longest = timedelta(hours=section.session_h)

    def is_open_here(self) -> bool:
        """Tell whether whoever sits at this machine needs no login."""
        return not self._needs_login and not self._book.has_users()

    def actor_of_session(self, secret: str) -> Actor | None:
        """Return whose session it is, or None if it does not count."""
        now = self._clock()
        return _actor(
            self._book.session_holder(secret, now, idle=self._idle, longest=self._longest)
        )

    def actor_of_token(self, secret: str) -> Actor | None:
        """Return the program whose token it is, or None if it does not count."""
        return _actor(self._book.token_holder(secret, self._clock()), kind="token ")

    def log_in(self, name: str, password: str, address: str) -> str | None:
        """Return the secret of a new session, or None: no such user, or not their password.

        Takes as long either way.
        """
        user = self._book.user(name)
        if not is_password(password, None if user is None else user.password_hash) or not user:
            return None
        now, secret = self._clock(), new_secret()
        self._book.forget_sessions(now, idle=self._idle, longest=self._longest)
        if not self._book.open_session(user.name, user.password_hash, secret, address, now):
            return None
        return secret

    def log_out(self, secret: str) -> None:
        """End a session."""
        self._book.close_session(secret)

    def has_user(self, name: str) -> bool:
        """Tell whether there is a user of that name."""
        return self._book.user(name) is not None

    def change_password(self, name: str, present: str, new: str) -> None:
        """Give a user the password they ask for; all their sessions end.

        Raises:
            WrongPasswordError: They do not know their present one.
            NodeError: The new one is too weak, or the user is gone.
        """
        user = self._book.user(name)
        if not is_password(present, None if user is None else user.password_hash):
            raise WrongPasswordError("the present password is another one")
        self._book.set_password(name, hashed_password(new, name), self._clock())


def _actor(holder: Holder | None, kind: str = "") -> Actor | None:
    return None if holder is None else Actor(kind + holder.name, WebRole(holder.role))
