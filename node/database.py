"""The address of the database, with what belongs to every connection and with its password.

The password stands in a file of its own or in the one that libpq reads (PGPASSFILE), never in the
configuration. Connects to nothing.
"""

from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from node.errors import ConfigError

_POSTGRESQL = "postgresql+psycopg"
_SCHEMES = ("postgresql", "postgres", _POSTGRESQL)

CONNECTION = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Of each connection, unless the address says otherwise (libpq 34.1.2): a database whose host is
gone is noticed within half a minute."""


def is_postgresql(address: str | None) -> bool:
    """Tell whether an address is one of PostgreSQL, which several processes can share."""
    return address is not None and address.partition(":")[0] in _SCHEMES


def address_problem(address: str) -> str:
    """Return what is wrong with an address, or an empty text."""
    try:
        parts = urlsplit(address)
        password = parts.password or dict(parse_qsl(parts.query)).get("password")
    except ValueError:
        return "is no address: postgresql+psycopg://user@host/database"
    if password:
        return "holds a password: put it into a file and name that in node.database_password_file"
    if parts.scheme in _SCHEMES and not parts.path.strip("/"):
        return "names no database: postgresql+psycopg://user@host/database"
    return ""


def complete_address(address: str, password_file: Path | None) -> str:
    """Return an address of PostgreSQL as it is used.

    Args:
        address: As configured.
        password_file: Its first line is the password; None: libpq finds it, or none is needed.

    Raises:
        ConfigError: The file cannot be read, or is empty.
    """
    parts = urlsplit(address)
    query = {**CONNECTION, **dict(parse_qsl(parts.query))}
    user, at, host = parts.netloc.rpartition("@")
    if password_file is not None:
        user, at = f"{user}:{quote(_password(password_file), safe='')}", "@"
    return urlunsplit((_POSTGRESQL, f"{user}{at}{host}", parts.path, urlencode(query), ""))


def _password(file: Path) -> str:
    key = "node.database_password_file"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{key}: {file} is not UTF-8 text"]) from error
    except OSError as error:
        raise ConfigError([f"{key}: {file}: {error.strerror}"]) from error
    if not lines or not lines[0]:
        raise ConfigError([f"{key}: the first line of {file} is empty"])
    return lines[0]
