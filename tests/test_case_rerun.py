"""A case is computed again under a protocol that an operator chooses: through the real schedule."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from node.__main__ import app
from node.case_orders import CaseOrders
from node.errors import NodeError
from node.index.case_lists import CaseLists
from node.index.case_rows import IllegalMoveError
from node.index.cases import CaseBook, CaseRecord
from node.index.runs import RunBook
from node.index.states import CaseState
from node.schedule import Schedule
from tests.shown_cases import Page, objects_of, shown_page
from tests.stored_instances import mr
from tests.test_web_pages_orders import press

NUMBER = 1


class Clinic:
    """A page, and the schedule that works on the same index."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.config = page.config

    def look(self) -> None:
        """Let the schedule look at everybody, long after the last object."""
        self.page.now += timedelta(hours=1)
        schedule = Schedule(self.config, self.page.index, cast("Any", None), lambda: self.page.now)
        schedule.resume()
        schedule.look()

    def computed(self, state: CaseState = CaseState.DELIVERED) -> str:
        """Return a case of that state under the protocol that fits; all associations are closed."""
        case_id = self.page.case(NUMBER, state)
        self.close()
        return case_id

    def close(self) -> None:
        """Let the senders hang up."""
        with self.page.index.begin() as connection:
            connection.exec_driver_sql("UPDATE associations SET closed_at = opened_at")

    def orders(self) -> CaseOrders:
        """Return the orders of an operator."""
        return CaseOrders(self.config, self.page.index, lambda: self.page.now, "operator ann")

    def record(self, case_id: str) -> CaseRecord:
        """Return a case."""
        found = CaseBook(self.page.index).case(case_id)
        assert found is not None
        return found

    def by_protocol(self) -> dict[str, CaseRecord]:
        """Return the cases by their protocols."""
        return {each.protocol: each for each in CaseBook(self.page.index).cases()}

    def due(self) -> list[tuple[str, int]]:
        """Return which cases are to be computed, and which revision of each."""
        return [(key.case_id, key.revision) for key in RunBook(self.page.index).due(self.page.now)]


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    with shown_page(tmp_path) as page:
        yield Clinic(page)


def test_case_when_run_under_another_protocol_is_another_case_that_names_the_first(
    clinic: Clinic,
) -> None:
    """Issue 8, page: re-run with another protocol; what was computed and delivered stays."""
    first = clinic.computed()
    before = clinic.record(first)
    answer = press(
        clinic.page.browser(), f"/cases/{first}", f"/cases/{first}/rerun", protocol="other"
    )
    assert answer.status_code == 303
    clinic.look()
    second = clinic.by_protocol()["other"]
    assert clinic.due() == [(second.case_id, 1)]
    after = clinic.record(first)
    assert (after.state, after.results) == (CaseState.DELIVERED, before.results)
    assert after.history[-1]["reason"] == (
        "computed anew under protocol other by operator this machine"
    )
    shown = clinic.page.browser().get(f"/api/v1/cases/{second.case_id}").json()
    assert shown["revisions"][0]["predecessor"] == f"case {first}"
    assert [each["case_id"] for each in shown["related"]] == [first]
    assert clinic.page.browser().get(f"/api/v1/cases/{first}").json()["goes_on_as"] == "other"


def test_choice_when_more_objects_come_holds(clinic: Clinic) -> None:
    """Later objects make a revision under the chosen protocol, and none under the first."""
    first = clinic.computed()
    clinic.orders().rerun(first, "other")
    clinic.look()
    second = clinic.by_protocol()["other"].case_id
    more = mr("2.77", **{"patient_id": f"ID-{NUMBER}", "patient_name": f"Family{NUMBER}^Given"})
    clinic.page.store(more)
    clinic.close()
    clinic.look()
    assert clinic.due() == [(second, 2)]
    assert clinic.record(first).revision == 1


def test_choice_when_taken_back_makes_a_revision_of_the_first_case(clinic: Clinic) -> None:
    """The same way leads back."""
    first = clinic.computed()
    clinic.orders().rerun(first, "other")
    clinic.look()
    second = clinic.by_protocol()["other"].case_id
    clinic.orders().rerun(second, "liver")
    clinic.look()
    assert clinic.due() == [(first, 2)]
    assert clinic.record(second).state is CaseState.ABANDONED


def test_case_when_run_under_its_own_protocol_makes_a_revision(clinic: Clinic) -> None:
    """The present settings of the protocol count."""
    first = clinic.computed()
    clinic.orders().rerun(first, "liver")
    clinic.look()
    assert clinic.due() == [(first, 2)]


@pytest.mark.parametrize("state", [CaseState.REJECTED, CaseState.FAILED, CaseState.READY])
def test_case_when_it_gave_no_result_is_abandoned_for_the_other(
    clinic: Clinic, state: CaseState
) -> None:
    """What stays behind is not forgotten, and says why it stays."""
    first = clinic.computed(state)
    if state is CaseState.REJECTED:  # its structure set has no ROI but Liver
        protocols = [*clinic.config.protocol]
        protocols[1] = protocols[1].model_copy(update={"targets": ("Liver",)})
        clinic.config = clinic.config.model_copy(update={"protocol": tuple(protocols)})
    clinic.orders().rerun(first, "other")
    clinic.look()
    second = clinic.by_protocol()["other"]
    assert clinic.due() == [(second.case_id, 1)]
    left = clinic.record(first)
    assert left.state is CaseState.ABANDONED
    assert left.reason == "computed anew under protocol other by operator ann"
    with pytest.raises(IllegalMoveError, match="computed under protocol other now"):
        clinic.orders().retry(first)


def test_protocol_when_it_is_gone_from_the_configuration_is_told(clinic: Clinic) -> None:
    """When in doubt abstain: nothing is computed under a protocol that nobody chose."""
    first = clinic.computed()
    clinic.orders().rerun(first, "other")
    kept = tuple(each for each in clinic.config.protocol if each.name != "other")
    clinic.config = clinic.config.model_copy(update={"protocol": kept})
    more = mr("2.77", **{"patient_id": f"ID-{NUMBER}", "patient_name": f"Family{NUMBER}^Given"})
    clinic.page.store(more)
    clinic.close()
    clinic.look()
    assert clinic.due() == []
    after = clinic.record(first)
    assert after.state is CaseState.REJECTED
    assert after.reason == (
        "an operator chose protocol other for it, which is no longer configured"
    )


def test_rerun_when_it_makes_no_sense_is_refused(clinic: Clinic) -> None:
    """Each refusal names what is wrong."""
    running = clinic.page.case(2, CaseState.RUNNING)
    with pytest.raises(IllegalMoveError, match="is running") as refused:
        clinic.orders().rerun(running, "other")
    assert f"hilum cases abandon {running}" in refused.value.hint
    with pytest.raises(NodeError, match="no protocol 'nothing'"):
        clinic.orders().rerun(running, "nothing")
    with pytest.raises(IllegalMoveError, match="no case nobody"):
        clinic.orders().rerun("nobody", "other")
    clinic.page.store([one for one in objects_of(3) if one.header.modality == "CT"])
    clinic.look()
    (bare,) = [c for c in CaseBook(clinic.page.index).cases() if not c.structure_set_uid]
    with pytest.raises(IllegalMoveError, match="has no structure set yet"):
        clinic.orders().rerun(bare.case_id, "other")


def test_rerun_when_ordered_from_the_command_line_does_the_same(
    clinic: Clinic, tmp_path: Path
) -> None:
    """`hilum cases rerun CASE --protocol NAME`."""
    first = clinic.computed()
    file = tmp_path / "hilum.toml"
    file.write_text(
        f'[node]\ndata = "{tmp_path}"\n[[protocol]]\nname = "other"\ntargets = ["BODY"]\n',
        encoding="utf-8",
    )
    answer = CliRunner().invoke(
        app, ["cases", "rerun", first, "--protocol", "other", "--config", str(file)]
    )
    assert answer.exit_code == 0, answer.output
    clinic.look()
    assert clinic.due() == [(clinic.by_protocol()["other"].case_id, 1)]
    assert CaseLists(clinic.page.index).counts()[CaseState.READY] == 1
