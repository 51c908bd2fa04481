"""Passwords: argon2id, and what one must be at least."""

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from node.errors import NodeError

SHORTEST = 12
"""Characters; NIST SP 800-63B-4 demands 8 beside a second factor, 15 alone. What wears people down
(kinds of characters, changing it every month) is not demanded, as it advises."""

LONGEST = 256
"""Characters; hashing is slow on purpose and must not be made slower by strangers."""

_HASHER = PasswordHasher(time_cost=3, memory_cost=65536, parallelism=1, type=Type.ID)
"""The second of the recommended sets of RFC 9106 section 4, on one lane: a login costs 64 MiB and
a tenth of a second."""

_NOBODYS = (
    "$argon2id$v=19$m=65536,t=3,p=1"
    "$qeazB2NHqMuB/19K3wiN4A$ayf1zTlCJq7TplRLCqMOlyUKhGVv2g9XOkgPXuv9mfQ"
)
"""Of a password that nobody has; made once, for it would cost every start of the node a login."""


def password_problems(password: str, user: str) -> list[str]:
    """Return what is wrong with a new password, in sentences.

    Args:
        password: What is to be the password.
        user: Whose.
    """
    folded = password.casefold()
    problems = []
    if len(password) < SHORTEST:
        problems.append(f"it has {len(password)} characters, at least {SHORTEST} are needed")
    if len(password) > LONGEST:
        problems.append(f"it has more than {LONGEST} characters")
    if any(not c.isprintable() for c in password):
        problems.append("it holds characters that cannot be seen")
    if user.casefold() in folded and len(password) - len(user) < SHORTEST:
        problems.append("it is hardly more than the name of its user")
    if len(set(folded)) < 5:
        problems.append("it repeats the same few characters")
    return problems


def hashed_password(password: str, user: str) -> str:
    """Return what is kept of a new password.

    Raises:
        NodeError: It is too weak; every reason is named.
    """
    if problems := password_problems(password, user):
        raise NodeError(
            "this password cannot be used: " + "; ".join(problems),
            hint="several words in a row are long and easy to remember",
        )
    return _HASHER.hash(password)


def is_password(password: str, kept: str | None) -> bool:
    """Tell whether a password is the one that was kept; slow on purpose.

    Args:
        password: What somebody typed.
        kept: The hash of the user's; None if there is no such user: that takes as long.
    """
    try:
        is_same = _HASHER.verify(kept or _NOBODYS, password[: LONGEST + 1])
    except (VerificationError, InvalidHashError):
        return False
    return is_same and kept is not None
