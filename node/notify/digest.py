"""What a message says: codes, severities, case ids; never a patient or a finding's text. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from node.index.notices import FAILURE, Notice

TEST = "test"
"""Code of a message that is sent to see whether it comes."""

MEANINGS = {
    "case-failed": "computing a case failed; it waits for a person",
    "case-rejected": "the objects of a case are unfit; the reasons stand on its page",
    "case-undelivered": "a peer did not take a result set",
    "peer-left-alone": "a peer fails again and again and is left alone for a while",
    "disk-low": "the disk of the data folder is filling up",
    TEST: "this is a test; nothing is wrong",
}
"""Of codes that are no findings; a finding's code is explained on the page of its case."""


@dataclass(frozen=True, slots=True)
class Digest:
    """One message.

    Attributes:
        node: Who tells it.
        notices: What is told, oldest first.
        more: How many are owed besides.
        page_url: Where the page is; may be empty.
    """

    node: str
    notices: Sequence[Notice]
    more: int
    page_url: str

    @property
    def message_id(self) -> str:
        """Name the message: the same notices told once more have the same name."""
        named = f"{self.node}\n" + "\n".join(n.news.subject for n in self.notices)
        return hashlib.sha256(named.encode()).hexdigest()[:32]

    @property
    def headline(self) -> str:
        """What it is about, in a line."""
        count = len(self.notices) + self.more
        if count == 1:
            news = self.notices[0].news
            about = news.case_id or news.peer
            return f"{self.node}: {news.code}" + (f" ({about})" if about else "")
        failures = sum(n.news.severity == FAILURE for n in self.notices)
        return f"{self.node}: {count} notices, {failures} of them failures"

    @property
    def text(self) -> str:
        """The message for people."""
        lines = [self.headline, ""]
        for notice in self.notices:
            news = notice.news
            about = " ".join(filter(None, (
                f"case {news.case_id}, revision {news.revision}" if news.case_id else "",
                f"peer {news.peer}" if news.peer else "",
            )))  # fmt: skip
            meaning = MEANINGS.get(news.code, "a finding of severity failure")
            lines.append(f"- {news.severity}: {news.code}: {meaning}")
            lines += [f"  {part}" for part in (about, self.url_of(notice)) if part]
            lines.append(f"  noticed {notice.noticed_at}")
        if self.more:
            lines.append(f"and {self.more} more")
        return "\n".join([*lines, ""])

    def url_of(self, notice: Notice) -> str:
        """Return where the page tells more, or an empty text."""
        if not self.page_url:
            return ""
        page, news = self.page_url.rstrip("/"), notice.news
        if news.case_id:
            return f"{page}/cases/{news.case_id}"
        if news.code == TEST:
            return f"{page}/"
        return f"{page}/peers" if news.peer else f"{page}/storage"

    def to_json(self) -> dict[str, object]:
        """Return the message for programs."""
        return {
            "version": 1,
            "id": self.message_id,
            "node": self.node,
            "more": self.more,
            "notices": [
                {
                    "code": n.news.code,
                    "severity": n.news.severity,
                    "case_id": n.news.case_id,
                    "revision": n.news.revision,
                    "peer": n.news.peer,
                    "url": self.url_of(n),
                    "noticed_at": n.noticed_at,
                }
                for n in self.notices
            ],
        }
