"""Asks a peer that reports nothing which of our objects it holds (C-FIND at IMAGE level)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydicom import dcmread

from node.config import Config, Peer
from node.errors import UnreadableObjectError
from node.query.find import InstanceName, held_by

_NAMES = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]


def held_results(config: Config, peer: Peer, paths: Mapping[str, Path]) -> frozenset[str]:
    """Return those of the SOP Instance UIDs that a peer says it holds.

    Args:
        config: Our AE title, time-outs and certificate.
        peer: Whom to ask.
        paths: Our files of the objects, by SOP Instance UID.

    Raises:
        DeliveryError: It does not answer; nothing is known then.
        UnreadableObjectError: A result file is gone.
    """
    return held_by(
        peer,
        config.node.ae_title,
        list(_names(paths)),
        timeout_s=config.node.network_timeout_s,
        tls=config.tls,
    )


def _names(paths: Mapping[str, Path]) -> Iterator[InstanceName]:
    for uid, path in paths.items():
        try:
            ds = dcmread(path, stop_before_pixels=True, specific_tags=_NAMES)
            yield InstanceName(
                uid, str(ds.SeriesInstanceUID), str(ds.StudyInstanceUID), str(ds.PatientID or "")
            )
        except Exception as error:
            # whatever pydicom raises means this
            raise UnreadableObjectError("a result file is gone or damaged") from error
