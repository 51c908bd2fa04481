"""An MR of somebody else, labelled as the patient's: all but one figure may look as it should."""

from dataclasses import replace

from handlers.decode import CaseDatasets, decode_case
from handlers.pipeline import find_targets
from handlers.registration import RegistrationSettings, register_frame
from handlers.results import RegistrationStatus
from node.commission.altered import identify_as
from node.phantom import PhantomOptions, make_study

SEED, OTHER_SEED = 1002, 501_002
"""The MR of the second fits the CT of the first within 1.2 mm by every measure at the target."""


def test_register_does_not_pass_the_mr_of_another_patient() -> None:
    """Both are built alike, and their livers lie alike; the structures around the target do not."""
    options = replace(PhantomOptions.for_seed(SEED, small=True), with_dose=False)
    other = replace(
        PhantomOptions.for_seed(OTHER_SEED, small=True), with_dose=False, contrasts=("T1",)
    )
    study, mr = make_study(options), make_study(other).mr["T1"]
    identify_as(mr, study.ct[0])
    series = {str(mr[0].SeriesInstanceUID): mr}
    case = decode_case(CaseDatasets(study.ct, study.structure_set, series)).case
    drawn, _ = find_targets(case, ["GTV*"])
    found = register_frame(case.ct, case.mr, list(drawn.values()), RegistrationSettings())
    assert found.status is not RegistrationStatus.PASS
    assert any("engine on structure" in reason for reason in found.reasons)
