"""A synthetic upper-abdominal patient: what a department would send, with the truth known.

`solids` shapes, `anatomy` the patient, `signals` how tissues look, `grids` where slices lie,
`objects` CT and MR datasets, `radiotherapy` structure set, plan and dose, `study` all together.
No network, file or clock: everything follows from the options. Not a physical simulation of a
scanner, and no statement about a real patient.
"""

from node.phantom.options import PhantomOptions
from node.phantom.study import PhantomStudy, make_study

__all__ = ["PhantomOptions", "PhantomStudy", "make_study"]
