"""Looks for news and has it told: at once what comes alone, together what comes in a crowd.

Called by the schedule, in a thread that may wait for slow servers: nobody's work waits for it.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from node.config import Config
from node.disk import DiskCalls
from node.index import Index
from node.index.notices import WARNING, News, Notice, NoticeBook, NoticeState
from node.monitoring.counts import COUNTS, NOTICES
from node.notify.channels import Channel, MailChannel, NotToldError, WebhookChannel
from node.notify.digest import Digest

LOGGER = logging.getLogger(__name__)

NOTIFY_S = 15.0
"""How often news is looked for."""

FORGET_EVERY = timedelta(hours=1)
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=1)
"""After a message that was not taken; each pause is twice the one before."""


class Notifier:
    """The notification of one process.

    Args:
        config: Channels, waiting times.
        index: Where notices are kept.
        clock: The time, aware.
        channels: The ways to tell; None: those of the configuration.
        disk: The system calls to use.
    """

    def __init__(
        self,
        config: Config,
        index: Index,
        clock: Callable[[], datetime],
        channels: Sequence[Channel] | None = None,
        disk: DiskCalls | None = None,
    ) -> None:
        self._section = config.notify
        self._data: Path = config.node.data
        self._node = own_name(config)
        self._book = NoticeBook(index)
        self._clock = clock
        self._channels = configured_channels(config) if channels is None else tuple(channels)
        self._disk = disk or DiskCalls()
        self._forgot_at: datetime | None = None
        self._is_stopping = False

    @property
    def is_on(self) -> bool:
        """Whether anybody is to be told anything."""
        return bool(self._channels)

    def stop(self) -> None:
        """Begin no further message; what is owed is told after the next start."""
        self._is_stopping = True

    def run(self) -> None:
        """Look for news, and tell what is due.

        Raises:
            StorageFullError: No room for what is to be remembered.
        """
        now, names = self._clock(), [channel.name for channel in self._channels]
        if not names:
            return
        self._book.look(names, now)
        self._book.owe(self._disk_news(now), names, now)
        for channel in self._channels:
            if not self._is_stopping:
                self._tell(channel)
        if self._forgot_at is None or now - self._forgot_at > FORGET_EVERY:
            self._book.forget(names, now)
            self._forgot_at = now

    def _disk_news(self, now: datetime) -> list[News]:
        """Return that the disk is filling up: once a day, as long as it is."""
        try:
            room = self._disk.room(self._data)
        except OSError:
            return []
        least_bytes = room.total_bytes * self._section.disk_free_percent / 100
        if room.free_bytes >= least_bytes:
            return []
        return [News(f"disk:{now.date().isoformat()}", "disk-low", WARNING)]

    def _tell(self, channel: Channel) -> None:
        now = self._clock()
        last = self._book.last_told(channel.name)
        if last is not None and now - last < timedelta(minutes=self._section.every_min):
            return  # what comes meanwhile goes into one message
        owed = self._book.take(channel.name, now)
        if not owed.notices:
            return
        limit = timedelta(hours=self._section.give_up_h)
        spent = [n for n in owed.notices if now - datetime.fromisoformat(n.noticed_at) >= limit]
        if spent:
            self._book.settle(spent, NoticeState.GIVEN_UP, now)
            COUNTS.add(NOTICES, channel.name, "given_up", amount=len(spent))
            LOGGER.error("notice.given_up", extra={"channel": channel.name, "notices": len(spent)})
        left = [n for n in owed.notices if n not in spent]
        if left:
            self._send(channel, left, owed.more)

    def _send(self, channel: Channel, notices: Sequence[Notice], more: int) -> None:
        now = self._clock()
        digest = Digest(self._node, notices, more, self._section.page_url)
        fields = {"channel": channel.name, "notices": len(notices)}
        try:
            refused = channel.send(digest, now)
        except NotToldError as error:
            doublings = min(10, *(notice.attempts for notice in notices))
            pause = min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE)
            self._book.put_off(notices, self._clock() + pause)
            COUNTS.add(NOTICES, channel.name, "put_off", amount=len(notices))
            LOGGER.warning("notice.not_told", extra={**fields, "reason": error.with_hint})
        else:
            self._book.settle(notices, NoticeState.TOLD, self._clock())
            COUNTS.add(NOTICES, channel.name, "told", amount=len(notices))
            LOGGER.info("notice.told", extra=fields)
            if refused:
                told = {"channel": channel.name, "refused": len(refused)}
                LOGGER.warning("notice.refused_for_some", extra=told)


def own_name(config: Config) -> str:
    """Return how this node names itself to people."""
    return f"Hilum {config.node.ae_title}"


def configured_channels(config: Config) -> tuple[Channel, ...]:
    """Return the ways to tell that are configured."""
    mail, webhook = config.notify.mail, config.notify.webhook
    found: list[Channel] = []
    if mail is not None:
        found.append(MailChannel(mail))
    if webhook is not None:
        found.append(WebhookChannel(webhook))
    return tuple(found)
