"""MR to planning CT: one rigid transform per MR frame of reference, and the verdict on it.

`leading` chooses the series, `start` finds rough poses from content, `rigid` makes them exact,
`judgement` tells how far to believe them. Not done here: local or deformable registration.

Read first: AAPM TG-132 (Brock et al. 2017, Med Phys 44:e43-e76).
"""

from handlers.registration.frame import register_frame
from handlers.registration.settings import RegistrationSettings

__all__ = ["RegistrationSettings", "register_frame"]
