"""The page over TLS: the protocols and ciphers of DICOM; a renewed certificate is taken up."""

import ssl
from pathlib import Path

from node.certificates import ReloadedFiles
from node.errors import ConfigError
from node.tls import own_problems, serving_context


def page_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return what the page's listener is opened with.

    Changed files count from the next connection on. Files that cannot be used are logged once, and
    the last usable ones stay in force.

    Args:
        certificate: PEM file; its intermediate authorities may follow.
        key: PEM file.

    Raises:
        ConfigError: The files cannot be used; every problem is named.
    """
    files = ReloadedFiles((certificate, key), lambda: _context(certificate, key))

    def take_current(line: ssl.SSLObject, _name: str | None, _of: ssl.SSLContext) -> None:
        line.context = files.current()

    listening = _context(certificate, key)
    listening.sni_callback = take_current  # called for every connection, with or without a name
    return listening


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = serving_context()
    context.set_alpn_protocols(["http/1.1"])
    if problems := own_problems(context, certificate, key, "web"):
        raise ConfigError(problems)
    return context
