"""Lists of cases, associations and patients: by index columns, whatever is asked."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from node.echoing import Echoing, is_called
from node.index import Index
from node.index.association_lists import association_page
from node.index.case_labels import label_old_cases, verdict_columns, words_of
from node.index.case_list_rows import CASE_WORDS
from node.index.case_lists import CaseFilter, CaseLists
from node.index.case_rows import CASES, RECEIPTS
from node.index.cases import CaseBook
from node.index.echoes import EchoBook
from node.index.states import CaseState
from tests.nodes import free_port, hilum_here
from tests.postgres import PostgresServer
from tests.shown_cases import Page, counted_statements, shown_page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with shown_page(tmp_path_factory.mktemp("lists"), tps_port=free_port()) as made:
        made.case(1, CaseState.DELIVERED)
        made.case(2, CaseState.FAILED)
        yield made


@pytest.mark.parametrize(
    "shown",
    [
        CaseFilter(),
        CaseFilter(state=CaseState.FAILED),
        CaseFilter(protocol="liver"),
        CaseFilter(severity="warning"),
    ],
)
def test_list_when_there_are_many_cases_sorts_and_scans_nothing(
    page: Page, shown: CaseFilter
) -> None:
    """Growth: a page of the list costs the same at fifty thousand cases."""
    for older in (None, "2026-03-01T12:00:00.000+00:00~ffff"):
        with counted_statements(page.index) as statements:
            CaseLists(page.index).page(shown, older=older)
        (select,) = [s for s in statements if "FROM cases" in s]
        plan = plan_of(page.index, select)
        assert "TEMP B-TREE" not in plan, plan
        assert re.search(r"USING (COVERING )?INDEX ix_cases_newest", plan), plan


FILTERS = (
    CaseFilter(),
    CaseFilter(state=CaseState.DELIVERED, peer="tps"),
    CaseFilter(protocol="liver", severity="warning"),
    CaseFilter(text="FAMILY GIV id-2"),
    CaseFilter(text="müll"),
    CaseFilter(text="5."),
)


def test_lists_when_the_index_is_postgresql_are_the_same(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """Issue 8: several machines share one index; what they show is what one shows."""
    found = []
    for database in (None, postgres.database()):
        with shown_page(tmp_path / str(len(found)), database=database) as made:
            made.case(1, CaseState.DELIVERED)
            made.case(2, CaseState.DELIVERING)
            made.case(3, CaseState.WAITING, "Müller^Ann")
            browser = made.browser()
            ids = sorted(each.case_id for each in CaseLists(made.index).page(CaseFilter()).lines)
            pages = [f"/cases/{case_id}" for case_id in ids]
            pages += ["/", "/peers", "/associations", "/protocols?text=ID-1"]
            lists = [CaseLists(made.index).page(each, size=2) for each in FILTERS]
            shown = [browser.get(page).text for page in pages]
            found.append(([page.lines for page in lists], [page.older for page in lists], shown))
    assert found[0][:2] == found[1][:2]
    assert [len(lines) for lines in found[0][0]] == [2, 1, 2, 1, 1, 2]
    for here, there in zip(*(each[2] for each in found), strict=True):
        assert SECRET.sub("", here) == SECRET.sub("", there)


SECRET = re.compile(r"[0-9a-f]{64}")
"""The CSRF token: another on each page."""


def plan_of(index: Index, select: str) -> str:
    """Return how SQLite would find the rows; the values do not matter."""
    values = ["x"] * (select.count("?") - 2) + [50, 0]
    with index.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {select}", tuple(values)).all()
    return "\n".join(str(row[-1]) for row in rows)


def test_associations_when_filtered_by_peer_are_found_by_an_index(page: Page) -> None:
    """Growth: so does a page of associations."""
    with counted_statements(page.index) as statements:
        association_page(page.index, peer="scanner", older=10)
    (select,) = [s for s in statements if "FROM associations" in s]
    plan = plan_of(page.index, select)
    assert "ix_associations_newest_by_peer" in plan
    assert "TEMP B-TREE" not in plan


def test_words_when_read_are_parts_of_names_without_case() -> None:
    """A search compares what was kept in the same way."""
    assert words_of("O'Neill^Mary Ann=山田^太郎") == ["o'neill", "mary", "ann", "山田", "太郎"]
    assert words_of(" ^ ") == []
    assert [len(word) for word in words_of("x" * 100)] == [64]


@pytest.mark.parametrize(
    ("summary", "wanted"),
    [
        ({}, ("", "", "")),
        (
            {
                "registrations": [{"status": "pass"}, {"status": "warn"}],
                "targets": [{"status": "refined"}, {"status": "abstained"}],
                "findings": [{"severity": "info"}, {"severity": "failure"}],
            },
            ("warn", "partly refined", "failure"),
        ),
        ({"targets": [{"status": "abstained"}]}, ("", "abstained", "")),
    ],
)
def test_verdicts_when_summed_up_tell_the_worst(
    summary: dict[str, Any], wanted: tuple[str, str, str]
) -> None:
    """What a list shows is not better than the case."""
    found = verdict_columns(summary)
    assert (found["registration"], found["target"], found["worst"]) == wanted


def test_cases_when_an_earlier_version_made_them_are_labelled_at_the_start(tmp_path: Path) -> None:
    """An upgraded index lists and finds its old cases as new ones."""
    with shown_page(tmp_path) as made:
        delivered = made.case(1, CaseState.DELIVERED)
        made.case(2, CaseState.WAITING)
        with made.index.begin() as connection:
            lost = {
                "case_id": delivered,
                "revision": 1,
                "peer": "tps",
                "sop_instance_uid": "2.25.0",
            }
            lost |= {"status": 0, "outcome": "sent", "reason": "", "at": "", "commitment": "lost"}
            connection.execute(RECEIPTS.insert().values(**lost, commitment_reason="gone"))
            connection.execute(
                CASES.update().where(CASES.c.case_id == delivered).values(worst="failure")
            )
        before = CaseLists(made.index).page(CaseFilter()).lines
        with made.index.begin() as connection:
            connection.execute(CASE_WORDS.delete())
            blank = dict.fromkeys(
                ("patient_name", "patient_id", "registration", "target", "worst"), ""
            )
            connection.execute(CASES.update().values(**blank))
        assert label_old_cases(made.index) == 2
        assert CaseLists(made.index).page(CaseFilter()).lines == before
        (found,) = CaseLists(made.index).page(CaseFilter(text="family1")).lines
        assert found.patient_id == "ID-1"
        assert label_old_cases(made.index) == 0


def test_list_command_when_there_are_many_cases_reads_the_newest(tmp_path: Path) -> None:
    """`hilum cases list` does bounded work, says that there are more, and shows all on request."""
    ended = (CaseState.DELIVERED, CaseState.FAILED, CaseState.DELIVERED, CaseState.DELIVERING)
    with shown_page(tmp_path / "data") as made:
        ids = [made.case(number, state) for number, state in enumerate(ended, start=1)]
        with counted_statements(made.index) as statements:
            CaseBook(made.index).cases(CaseState.DELIVERED, 2)
        (select,) = [s for s in statements if "FROM cases" in s]
        assert "TEMP B-TREE" not in plan_of(made.index, select)
    config = tmp_path / "hilum.toml"
    text = f'[node]\ndata = "{tmp_path / "data"}"\n[[protocol]]\nname = "liver"\ntargets = ["*"]\n'
    config.write_text(text, encoding="utf-8")

    def listed(*options: str) -> tuple[list[str], str]:
        answer = hilum_here("cases", "list", "--config", str(config), *options)
        assert answer.returncode == 0, answer.stderr
        return [line.split()[0] for line in answer.stdout.splitlines()], answer.stderr

    assert listed("--limit", "2") == (ids[:1:-1], "the 2 newest; there are more: --all, or a larger"
                                      " --limit, shows them\n")  # fmt: skip
    assert listed("--limit", "1", "--all") == (ids[::-1], "")
    assert listed("--state", "delivered", "--limit", "2") == ([ids[2], ids[0]], "")
    assert hilum_here("cases", "list", "--config", str(config), "--limit", "0").returncode == 2


def test_case_when_forgotten_is_found_by_no_word(tmp_path: Path) -> None:
    """A placeholder that vanishes leaves nothing behind."""
    with shown_page(tmp_path) as made:
        case_id = made.case(1, CaseState.WAITING)
        made.propose_nothing(1)
        with made.index.read() as connection:
            left = connection.scalars(
                sa.select(CASE_WORDS.c.word).where(CASE_WORDS.c.case_id == case_id)
            ).all()
        assert left == []


def test_echo_when_nobody_answers_is_kept_with_its_reason(page: Page) -> None:
    """Issue 8, page: echo state; asked by the clock, and not again before its time."""
    echoing = Echoing(page.config, page.index, lambda: page.now)
    assert [peer.name for peer in page.config.peer if is_called(peer)] == ["tps"]
    echoing.ask_all()
    first = EchoBook(page.index).echoes()["tps"]
    assert "does not accept connections" in first.reason
    assert first.answered_at is None
    EchoBook(page.index).answered("tps", 3.0, page.now)
    echoing.ask_all()
    assert EchoBook(page.index).echoes()["tps"].reason == "", "another process asked just now"
