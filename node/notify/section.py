"""`[notify]`: who is told when something needs a person."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, Strict, model_validator

from node.peer import File, Host, Port, is_loopback
from node.protocol import Positive, Section

Address = Annotated[str, Field(pattern=r"^[^@\s<>,;\"]{1,64}@[^@\s<>,;\"]{1,255}$")]
"""An address of electronic mail, without a name beside it."""


class MailSection(Section):
    """`[notify.mail]`: by electronic mail."""

    host: Host
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: Address
    to: Annotated[tuple[Address, ...], Strict(strict=False), Field(min_length=1, max_length=20)]
    username: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    password_file: File | None = None
    authorities: File | None = None

    @model_validator(mode="after")
    def _check(self) -> "MailSection":
        problems: list[str] = []
        if (self.username is None) != (self.password_file is None):
            missing = "username" if self.username is None else "password_file"
            problems.append(f"{missing} is missing: to log in takes both")
        if self.security == "none" and not is_loopback(self.host):
            problems.append('security = "none" is allowed for a server on this machine only')
        if problems:
            raise ValueError("\n".join(problems))
        return self


class WebhookSection(Section):
    """`[notify.webhook]`: by a request to another program."""

    url: Annotated[str, Field(max_length=2000)]
    secret_file: File
    authorities: File | None = None

    @model_validator(mode="after")
    def _check(self) -> "WebhookSection":
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("url is no address") from None
        if not host or parts.scheme not in ("https", "http") or not self.url.isascii():
            raise ValueError("url must begin with https:// and name a host")
        if any(c <= " " for c in self.url):
            raise ValueError("url holds a space or a control character")
        if parts.username or parts.password:
            raise ValueError("url holds a password: the signature shows who calls")
        if parts.scheme == "http" and not is_loopback(host):
            raise ValueError("url must begin with https://; http is for this machine only")
        return self


class NotifySection(Section):
    """`[notify]`: who is told when something needs a person."""

    page_url: Annotated[str, Field(max_length=200, pattern=r"^(https?://[!-~]+)?$")] = ""
    every_min: Positive = 15.0
    give_up_h: Positive = 72.0
    disk_free_percent: Annotated[float, Field(ge=0, le=90)] = 5.0
    mail: Annotated[MailSection | None, Strict(strict=False)] = None
    webhook: Annotated[WebhookSection | None, Strict(strict=False)] = None
