"""How words are colored; the word itself always stands beside its color."""

from collections.abc import Mapping

TONES: Mapping[str, str] = {
    "receiving": "work",
    "waiting": "notice",
    "ready": "work",
    "running": "work",
    "delivering": "work",
    "delivered": "good",
    "undelivered": "bad",
    "rejected": "bad",
    "failed": "bad",
    "abandoned": "",
    "pending": "work",
    "committing": "work",
    "pass": "good",
    "warn": "notice",
    "fail": "bad",
    "refined": "good",
    "partly refined": "notice",
    "abstained": "notice",
    "info": "",
    "warning": "notice",
    "failure": "bad",
    "error": "bad",
    "INFO": "",
    "WARNING": "notice",
    "ERROR": "bad",
    "CRITICAL": "bad",
    "released": "",
    "aborted": "notice",
    "connection lost": "notice",
    "node stopped": "notice",
}
"""Good, notice (look at it), bad (act), work (goes on); others are plain."""
