"""Sections 1 and 2: what the product offers on the network, and for whom this is written."""

from pydicom.uid import UID

from node.answering.keys import FIND_CLASSES, GET_CLASSES, MOVE_CLASSES
from node.config import Config
from node.conformance import STORAGE_COMMITMENT, VERIFICATION
from node.query.find import FIND_MODELS
from node.query.retrieve import GET_MODELS, MOVE_MODELS
from node.statement.markdown import table, yes
from node.storage_classes import SENT, accepted


def services(config: Config) -> list[tuple[str, UID, str, str]]:
    """Return each SOP class of the network, by service: name, UID, and whether as SCU and SCP."""
    received = {row.sop_class_uid: None for row in accepted(config)}
    sent = {row.sop_class_uid: None for row in SENT}
    rows = [(one.name, one, yes(one in sent), yes(one in received)) for one in {**received, **sent}]
    asked = (*FIND_CLASSES, *MOVE_CLASSES, *GET_CLASSES)
    asking = (*FIND_MODELS, *MOVE_MODELS, *GET_MODELS)
    rows += [
        (UID(one).name, UID(one), yes(one in asking), yes(one in asked))
        for one in dict.fromkeys((*asked, *asking))
    ]
    rows.append((STORAGE_COMMITMENT.name, STORAGE_COMMITMENT, "yes", "yes"))
    rows.append((VERIFICATION.name, VERIFICATION, "yes", "yes"))
    return rows


def overview(config: Config) -> str:
    """Return section 1."""
    return (
        "# DICOM conformance statement of Hilum\n\n## 1 Overview\n\n"
        "Hilum receives CT, MR and RT Structure Sets, registers MR to the planning CT, proposes a "
        "refined target and sends the results to the peers that its configuration names. It can "
        "fetch what is missing from an archive, ask whether results are kept, and be asked for its "
        "own results and for the commitment to keep what it received. It is no archive: what it "
        "received cannot be queried. Worklist, MPPS, print, media and DICOMweb are not "
        "supported.\n\n### 1.1 Network services\n\n"
        + table(("SOP class", "UID", "SCU", "SCP"), services(config))
    )


def introduction() -> str:
    """Return section 2."""
    return (
        "## 2 Introduction\n\n"
        "For those who connect Hilum with scanners, planning systems and archives. The statement "
        "is printed by `hilum conformance` from the tables that the running program obeys and from "
        "the configuration in force; it follows the template of PS3.2. AE: application entity; "
        "SCU, SCP: service class user and provider; TPS: treatment planning system. That two "
        "statements fit does not show that two systems work together: `hilum commission` and a "
        "test with one's own peers do. Hilum is no cleared medical device."
    )
