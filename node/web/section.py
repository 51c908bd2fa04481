"""`[web]`: where the page listens."""

from typing import Annotated

from pydantic import Field

from node.peer import Host
from node.protocol import Section


class WebSection(Section):
    """`[web]`: where the page listens."""

    enabled: bool = True
    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
