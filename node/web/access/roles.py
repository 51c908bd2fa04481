"""What a user or program may do; apart from `actor`, so that the command line starts quickly."""

from enum import StrEnum


class WebRole(StrEnum):
    """What a user may do; whoever may operate may also view."""

    VIEW = "view"
    OPERATE = "operate"
