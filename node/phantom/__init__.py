"""A synthetic upper-abdominal patient: what a department would send, with the truth known.

The patient: `solids` shapes, `anatomy` with `bowel`, `lymph_node` and `detail`, `tissues` and
`look` how it appears, `motion` how it lies and breathes, `patient` all of that; `variety` what a
case of the commissioning kit draws from its seed, `hiding` what keeps a part of the node out of
sight in the CT. The images: `grids`, `signals`, `artefacts`, `streaks`. The objects: `objects` CT
and MR, `radiotherapy` structure set, plan and dose, `courses` further plans and an earlier course,
`study` all together, `truth` what is known about it, `export` both on disk. No network or clock,
and files only in `export`: everything follows from the options. Not a physical simulation of a
scanner, and no statement about a real patient.
"""

from node.phantom.options import PhantomOptions
from node.phantom.study import PhantomStudy, make_study

__all__ = ["PhantomOptions", "PhantomStudy", "make_study"]
