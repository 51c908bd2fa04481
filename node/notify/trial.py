"""One message to everybody who is to be told, now: whether it would be taken if it mattered.

Touches no index: it says nothing of what is owed, and works beside a running node.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from node.config import Config
from node.index.notices import INFO, News, Notice
from node.notify.channels import Channel, NotToldError
from node.notify.digest import TEST, Digest
from node.notify.notifier import configured_channels, own_name


@dataclass(frozen=True, slots=True)
class Trial:
    """How one way to tell somebody took the message.

    Attributes:
        channel: Its name.
        receiver: Where it leads, as configured.
        told: Whether the message was taken.
        refused: Receivers who were refused, while others took it.
        reason: Why it was not taken; `hint` what to do.
    """

    channel: str
    receiver: str
    told: bool
    refused: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Tell whether everybody took it."""
        return self.told and not self.refused


def send_trial(
    config: Config, now: datetime, channels: Sequence[Channel] | None = None
) -> list[Trial]:
    """Send a message that says it is a test; return how each way took it.

    Args:
        config: Ways, names, the address of the page.
        now: The time, aware.
        channels: The ways; None: those of the configuration.
    """
    news = News(f"{TEST}:{secrets.token_hex(8)}", TEST, INFO)  # no two are the same message
    notice = Notice(0, news, now.isoformat(timespec="seconds"), 0)
    digest = Digest(own_name(config), (notice,), 0, config.notify.page_url)
    found = configured_channels(config) if channels is None else channels
    return [_tried(channel, digest, now) for channel in found]


def _tried(channel: Channel, digest: Digest, now: datetime) -> Trial:
    begun_s = time.monotonic()
    try:
        refused = channel.send(digest, now)
    except NotToldError as error:
        seconds = time.monotonic() - begun_s
        reason, hint = str(error), error.hint
        return Trial(channel.name, channel.receiver, False, (), reason, hint, seconds)
    return Trial(channel.name, channel.receiver, True, refused, seconds=time.monotonic() - begun_s)
