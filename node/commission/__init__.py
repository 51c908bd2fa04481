"""Commissioning as AAPM TG-132 asks: the node's own computation against cases with known truth.

`kit` synthetic cases with full truth, `faults` what must be flagged, `orientation` starts, patient
positions and planes, `own` a department's pairs. Each is computed by `computing`, which is what
`hilum process` does; `found_map` reads the answer from the DICOM objects that were written.
`accuracy` compares, `limits` holds the limits with their sources, `summary` draws all together,
`table` and `document` write CSV and PDF, `run` is the order of all that.

Never tells who a patient is: own pairs are called by their number.

Read first: AAPM TG-132 (Brock et al. 2017, Med Phys 44:e43-e76).
"""

from node.commission.run import Order, OrderError, Verdict, commission, lines, steps

__all__ = ["Order", "OrderError", "Verdict", "commission", "lines", "steps"]
