"""Which protocol a structure set falls under, and why: pure, by names alone.

`node.assembly` decides with it, and the page explains with it: there is no second opinion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from node.header import InstanceHeader
from node.protocol import Protocol

MOST_NAMES = 20
"""ROI names that a text lists before it only counts."""


@dataclass(frozen=True, slots=True)
class ProtocolFit:
    """How a protocol and a structure set fit.

    Attributes:
        named_by: The pattern of `structure_sets` that fits its label or series description, or
            None.
        target_by: The first pattern of `targets` that fits an ROI, or None.
        targets: The ROIs that it fits, in their order.
    """

    protocol: Protocol
    named_by: str | None
    target_by: str | None
    targets: tuple[str, ...]


def rank(names: Sequence[str], patterns: Sequence[str]) -> int | None:
    """Return the place of the first pattern that matches one of the names, ignoring case."""
    folded = [name.strip().lower() for name in names]
    for place, pattern in enumerate(patterns):
        if any(fnmatchcase(name, pattern.lower()) for name in folded):
            return place
    return None


def protocol_fit(header: InstanceHeader, protocol: Protocol) -> ProtocolFit:
    """Return how a structure set fits a protocol."""
    named = rank((header.structure_set_label, header.series_description), protocol.structure_sets)
    aimed = rank(header.roi_names, protocol.targets)
    target_by = None if aimed is None else protocol.targets[aimed]
    return ProtocolFit(
        protocol,
        None if named is None else protocol.structure_sets[named],
        target_by,
        ()
        if target_by is None
        else tuple(name for name in header.roi_names if rank((name,), (target_by,)) is not None),
    )


def choose_protocol(
    header: InstanceHeader, protocols: Sequence[Protocol], chosen: Mapping[str, str]
) -> tuple[Protocol | None, str]:
    """Return the protocol of a structure set, and why it cannot be computed under it, or nothing.

    What an operator chose counts; else the first protocol that fits by name and has a target, else
    the first that fits by name.

    Args:
        header: Of the structure set.
        protocols: In order of preference.
        chosen: Protocol by SOP Instance UID of structure sets, as operators chose.
    """
    wish = chosen.get(header.sop_instance_uid)
    fits = [protocol_fit(header, each) for each in protocols]
    if wish is None:
        fitting = [fit for fit in fits if fit.named_by is not None]
    else:
        fitting = [fit for fit in fits if fit.protocol.name == wish]
        if not fitting and fits:
            automatic, _ = choose_protocol(header, protocols, {})
            text = f"an operator chose protocol {wish} for it, which is no longer configured"
            return automatic or fits[0].protocol, text
    for fit in fitting:
        if fit.target_by is not None:
            return fit.protocol, ""
    if not fitting:
        return None, ""
    wanted = ", ".join(dict.fromkeys(name for fit in fitting for name in fit.protocol.targets))
    shown = ", ".join(header.roi_names[:MOST_NAMES]) or "none"
    if (more := len(header.roi_names) - MOST_NAMES) > 0:
        shown += f" and {more} more"
    text = f"no ROI is a target: the structure set has {shown}; wanted is {wanted}"
    return fitting[0].protocol, text
