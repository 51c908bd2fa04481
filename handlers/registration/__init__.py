"""MR, or another CT, to the planning CT: one transform per frame of reference, and its verdict.

`leading` chooses the series, `start` finds rough poses from content, `search` follows the best of
them (`coarse`) and asks two engines (`brightness`, `structure`; for another CT, made comparable by
`levelled`: `brightness`, `bone`); `local` looks at what surrounds the target, `deformable` at what
is left there; `judgement` tells how far to believe it all; `frame` is the order of these.

Read first: AAPM TG-132 (Brock et al. 2017, Med Phys 44:e43-e76).
"""

from handlers.registration.frame import register_frame
from handlers.registration.settings import RegistrationSettings

__all__ = ["RegistrationSettings", "register_frame"]
