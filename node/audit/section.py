"""`[audit]`: whether and where the audit trail is kept, and whom it names."""

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from node.peer import File, Host, Port
from node.protocol import Section


class AuditSyslog(Section):
    """`[audit.syslog]`: where the trail is sent to, over TLS (PS3.15 A.6)."""

    host: Host
    port: Port = 6514
    authorities: File
    certificate: File | None = None
    key: File | None = None

    @model_validator(mode="after")
    def _check(self) -> "AuditSyslog":
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise ValueError(f"{missing} is missing: it takes both certificate and key")
        return self


class AuditSection(Section):
    """`[audit]`: whether and where the audit trail is kept, and whom it names."""

    enabled: bool = True
    patients: Literal["pseudonym", "identifier"] = "pseudonym"
    site: Annotated[str, Field(max_length=64)] = ""
    keep_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    syslog: Annotated[AuditSyslog | None, Strict(strict=False)] = None
