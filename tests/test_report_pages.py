"""The report for people: both forms say the same, and nothing is lost, whatever comes."""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from handlers.dose_results import Comparison, DoseMeasures
from handlers.pages.content import Document, Section, Statement
from handlers.pages.document import WARNING, document_of
from handlers.pages.drawing import Raster
from handlers.pages.html import html_of
from handlers.pages.pdf import pdf_of
from handlers.pages.target_figure import target_figure
from handlers.results import (
    CaseResult,
    DailyPosition,
    DerivedTarget,
    MoveCause,
    RegistrationStatus,
    SurfaceMoves,
)
from handlers.values import CtRole, Finding, Severity
from tests.encode_cases import ball
from tests.pdf_reader import ReadPdf, read_pdf
from tests.picture_cases import case_of, grid_of
from tests.report_cases import (
    ABOUT,
    ORGANS,
    dose_of,
    plan_of,
    refined_case,
)
from tests.report_reading import parts_of, said, table_called, tables_of

HOSTILE = "<script>alert(1)</script><b>&amp;</p>"
GREEK_AND_RUSSIAN = "Πύλη Żółć Опухоль Leberhohlvene Karaciğer"
KHMER = "\N{KHMER LETTER KA}\N{KHMER LETTER KHA}"
UNBROKEN = "GTV_" + "very_long_name_" * 4


@pytest.fixture(scope="module")
def ordinary() -> Document:
    """A refined target with fourteen organs, one plan and its limits."""
    return document_of(replace(refined_case(), dose=dose_of(ORGANS)), ABOUT)


@pytest.fixture(scope="module")
def page(ordinary: Document) -> str:
    """Its HTML."""
    return html_of(ordinary)


@pytest.fixture(scope="module")
def pdf(ordinary: Document) -> ReadPdf:
    """Its PDF, read."""
    return read_pdf(pdf_of(ordinary))


class Page(HTMLParser):
    """What a browser finds in a page: tags with their attributes, and words that are shown."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "wbr"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self._open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join("".join(self.words).split())


def check_says_all(text: str, document: Document) -> None:
    """Check that a form says every word of a document, in its order."""
    at = 0
    for words in said(document):
        wanted = "".join(words.split())
        found = text.find(wanted, at)
        assert found >= 0, f"{words!r} is not where it should be"
        at = found


# --- two forms ------------------------------------------------------------------------------------


def test_both_forms_say_the_same_in_the_same_order(
    ordinary: Document, page: str, pdf: ReadPdf
) -> None:
    """Issue 7, 6: one design, two forms."""
    check_says_all(Page(page).text, ordinary)
    check_says_all(pdf.text, ordinary)


def test_an_ordinary_case_takes_two_pages(pdf: ReadPdf) -> None:
    """Issue 7, 6: two pages for an ordinary case."""
    assert len(pdf.pages) == 2


def test_every_page_bears_patient_warning_and_number(pdf: ReadPdf) -> None:
    for number, words in enumerate(pdf.pages, start=1):
        for told in ("Müller, Jürgen, ID 4711", WARNING, f"page {number} of {len(pdf.pages)}"):
            assert told in words


def test_the_first_page_tells_what_was_done_and_the_verdict(pdf: ReadPdf) -> None:
    """Issue 7, 6: what was done, the verdict, the target on CT, MR and fused, three planes."""
    first = " ".join(pdf.pages[0].split())
    for told in (
        "periportal-sbrt",
        "Hilum 0.1.0, 2026-03-04 05:06:07 UTC",
        "1 series in 1 frame of reference registered to the planning CT; 1 of 1 target refined",
        "GTVn1 (ROI 1): a refined contour is proposed as GTVn1_CT1: 7.31 to 4.21",
        "Confidence 0.88 of 1.",
        "40.0 Gy cover 97.5 % as drawn and 91.2 % (BELOW 95 %) as refined.",
        "Registration 1 (1 series of MR to the planning CT) passed its checks.",
        "of 5 organ limits 1 met, 2 exceeded, 2 not evaluable. EXCEEDED: Duodenum Dmax by 2.00 Gy",
        "MR over CT",
        "refined (proposal)",
    ):
        assert told in first, told


def test_equal_inputs_give_equal_bytes() -> None:
    """DESIGN 6: dates come from the authorship alone, nothing from chance."""
    twice = []
    for _ in range(2):
        document = document_of(replace(refined_case(organs=ORGANS[:2]), dose=None), ABOUT)
        twice.append((pdf_of(document), html_of(document)))
    assert twice[0] == twice[1]
    assert set(read_pdf(twice[0][0]).dates) == {"D:20260304050607+00'00'"}


def test_fonts_are_embedded(pdf: ReadPdf) -> None:
    """An archive shows in years what is shown today: no font is left to the viewer."""
    assert len(pdf.embedded) == 2
    assert all(pdf.embedded.values())


def test_matplotlib_stays_outside() -> None:
    """Its fonts are used; importing it would cost the computing child seconds and memory."""
    words = (
        "import sys; from handlers.pages.fonts import printable; "
        "print(printable('\u03a9') == '\u03a9', 'matplotlib' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=60)
    assert told.stdout.split() == ["True", "False"], told.stderr


def test_page_is_complete_in_itself_and_accessible(page: str) -> None:
    """Issue 7, 6: no script, nothing from outside; headings in order, tables and figures told."""
    read = Page(page)
    names = [tag for tag, _ in read.tags]
    assert not {"script", "link", "iframe", "object", "a"} & set(names)
    for tag, attributes in read.tags:
        for name, value in attributes.items():
            if name in ("href", "src", "xlink:href"):
                assert value.startswith("data:image/jpeg;base64,"), tag
            assert not name.startswith("on")
            assert name in ("xmlns", "content") or "http" not in value
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page)
    levels = [int(tag[1]) for tag in names if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert names.count("table") == names.count("caption")
    assert all("scope" in attributes for tag, attributes in read.tags if tag == "th")
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in read.tags:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-labelledby"] in ids
    assert dict(read.tags)["html"]["lang"] == "en"


# --- whatever comes -------------------------------------------------------------------------------


def _without_mr(result: CaseResult) -> CaseResult:
    return replace(result, registrations=(), resampled=())


def _failed(result: CaseResult) -> CaseResult:
    failed = replace(
        result.registrations[0], status=RegistrationStatus.FAIL, reasons=("Nothing fits.",)
    )
    return replace(result, registrations=(failed,), resampled=())


def _three_targets() -> CaseResult:
    first = refined_case(organs=ORGANS[:6])
    second = case_of(grid_of(), name="GTVn2").targets[0]
    third = replace(second, source_roi=replace(second.source_roi, number=3, name="GTVp"))
    second = replace(second, source_roi=replace(second.source_roi, number=2))
    return replace(first, targets=(*first.targets, second, third), dose=dose_of(ORGANS[:6]))


def _odd_names() -> CaseResult:
    names = [HOSTILE, GREEK_AND_RUSSIAN, UNBROKEN, "ROI\u202e\n\x00 1", ""]
    result = refined_case(organs=names, target=UNBROKEN)
    return replace(result, dose=dose_of(names, target=UNBROKEN, has_prior=True))


def _long_finding() -> CaseResult:
    text = "Something that nobody expected was found near the target. " * 250
    findings = (
        Finding("case.odd", Severity.WARNING, text),
        Finding("case.bad", Severity.FAILURE, "This is worse."),
        Finding("case.note", Severity.INFO, "x" * 3000),
    )
    return replace(refined_case(organs=ORGANS[:1]), findings=findings)


def _two_plans() -> CaseResult:
    first, second = plan_of(ORGANS[:2]), plan_of(ORGANS[:2], label="MR-planned", scale=1.1)
    pairs = tuple(
        Comparison((0, 1), (a.name, b.name), {k: (a.figures[k], b.figures[k]) for k in a.figures})
        for a, b in zip(first.structures, second.structures, strict=True)
    )
    dose = DoseMeasures((first, second), None, dose_of(()).end_cap, pairs)
    return replace(refined_case(organs=ORGANS[:2]), dose=dose)


def _with_cone_beam() -> CaseResult:
    """A CBCT with its daily position, found and derived structures, and a surface that moved."""
    result = refined_case(organs=ORGANS[:2])
    (target,) = result.targets
    cbct = replace(result.case.ct, series_instance_uid="2.25.77", role=CtRole.CBCT)
    registration = replace(
        result.registrations[0], leading_series_uid="2.25.77", series_uids=("2.25.77",)
    )
    daily = DailyPosition((1.25, -2.35, 3.45), (0.1, -0.2, 0.3), (0, 0, 0), "HFS", False)
    moves = SurfaceMoves(
        np.zeros((4, 3)), np.array([-2.0, -1.0, 0.0, 1.0]), (MoveCause.VESSEL, None, None, None)
    )
    shell = ball(grid_of(), (0, 0, 0), 13.0)
    target = replace(
        target,
        refinement=replace(target.refinement, moves=moves, found={"zVessel": shell}),
        derived=(DerivedTarget("PTV_1", "PTV", shell, "GTVn1 with 1 mm, cut at Duodenum."),),
    )
    return replace(
        result,
        case=replace(result.case, other_ct=(cbct,)),
        registrations=(*result.registrations, registration),
        targets=(target,),
        daily_positions={"2.25.77": daily},
    )


CASES = {
    "abstained": lambda: case_of(grid_of(), name="GTVn1"),
    "no MR": lambda: _without_mr(refined_case(organs=ORGANS[:3])),
    "registration failed": lambda: _failed(case_of(grid_of())),
    "registration to be checked": lambda: case_of(grid_of(), status=RegistrationStatus.WARN),
    "three targets": _three_targets,
    "two plans": _two_plans,
    "a cone beam and more": _with_cone_beam,
    "odd names": _odd_names,
    "long findings": _long_finding,
    "nothing drawn of organs": lambda: refined_case(organs=()),
    "tilted and prone": lambda: refined_case(organs=(), position="HFDL"),
}
"""What a report must be written of, beside the ordinary."""


@pytest.mark.parametrize("name", CASES)
def test_everything_is_said_whatever_comes(name: str) -> None:
    """Nothing is cut and nothing fails: every word of the content stands in both forms."""
    document = document_of(CASES[name](), ABOUT)
    read = read_pdf(pdf_of(document))
    check_says_all(Page(html_of(document)).text, document)
    body = _body(read)
    if name != "long findings":
        check_says_all(body, document)
        return
    # a cell that is longer than a page is broken, and goes on below the head of its table
    body = body.replace("Findingsseverityfindingcode", "").replace("case.odd", "")
    assert body.count("Somethingthatnobodyexpectedwasfoundnearthetarget.") == 250
    assert body.count("x") >= 3000


def _body(read: ReadPdf) -> str:
    """Return the words of all pages without the heads and feet, which are drawn last."""
    head = "".join("".join(f"{ABOUT.patient_name}, ID {ABOUT.patient_id}, born".split()))
    pages = ["".join(page.split()) for page in read.pages]
    return "".join(page[: page.rindex(head)] for page in pages)


def test_names_are_words_and_never_markup() -> None:
    document = document_of(_odd_names(), ABOUT)
    html, read = html_of(document), read_pdf(pdf_of(document))
    assert "<script" not in html
    shown = "".join(HOSTILE.split())
    assert shown in Page(html).text
    assert shown in read.text
    assert "".join(GREEK_AND_RUSSIAN.split()) in read.text
    assert "\u202e" not in html
    assert "unnamed" in html


@pytest.mark.parametrize("name", ["王小明", "山田はなこ", "김철수", "Мария", "Ἀθῆναι"])
def test_names_in_other_scripts_are_printed(name: str) -> None:
    """In the heads of pages, in facts and tables; fonts of our own stay embedded."""
    about = replace(ABOUT, patient_name=f"{name} (X)")
    document = document_of(refined_case(organs=(f"{name} A",)), about)
    read = read_pdf(pdf_of(document))
    first = "".join(read.pages[0].split())
    assert first.count(f"{name}(X)") == 2
    assert f"{name}A" in first
    left_to_viewer = {font for font, is_embedded in read.embedded.items() if not is_embedded}
    assert len(left_to_viewer) == (name in ("王小明", "山田はなこ", "김철수"))


def test_letters_that_no_font_has_become_question_marks_in_the_pdf_only() -> None:
    document = document_of(refined_case(organs=(f"{KHMER} A",)), ABOUT)
    assert f"{KHMER} A" in html_of(document)
    read = read_pdf(pdf_of(document))
    assert "?? A" in " ".join(read.pages[0].split())


def test_everything_is_said_of_very_many_organs_and_long_tables_repeat_their_head() -> None:
    names = [f"Organ_of_the_abdomen_{at:02d}" for at in range(95)]
    result = replace(refined_case(organs=names), dose=dose_of(names, has_prior=True))
    document = document_of(result, ABOUT)
    read = read_pdf(pdf_of(document))
    check_says_all(Page(html_of(document)).text, document)
    check_says_all(_body(read), document)
    with_rows = [page for page in read.pages if "Organ_of_the_abdomen_" in page]
    assert len(with_rows) >= 3
    captions = [t.caption for t in tables_of(document) if len(t.rows) == 95]
    assert len(captions) == 3
    pages_of = {c: [page for page in read.pages if c in page] for c in captions}
    split = max(pages_of.values(), key=len)
    assert len(split) >= 2
    assert all("Organ_of_the_abdomen_" in page for page in split)


def test_an_abstention_is_told_with_its_reason_and_no_refined_number() -> None:
    document = document_of(case_of(grid_of(), name="GTVn1"), ABOUT)
    (verdict,) = [
        b
        for s in document.sections
        for b in s.blocks
        if isinstance(b, Statement) and "no change is proposed" in b.lead
    ]
    assert verdict.text == "Too little is seen."
    assert [c.heading for c in table_called(document, "GTVn1: volumes").columns] == ["cm³", "drawn"]
    assert "refined" not in Page(html_of(document)).text.replace("0of1targetrefined", "")


def test_without_mr_and_with_a_failed_registration_no_mr_is_shown() -> None:
    for result in (_without_mr(refined_case(organs=())), _failed(case_of(grid_of()))):
        document = document_of(result, ABOUT)
        figures = target_figure(result, result.targets[0])
        assert figures is not None
        pictures, _ = figures
        assert sum(isinstance(part, Raster) for part in parts_of(pictures.drawing)) == 3
        assert "CT alone, no MR is shown" in pictures.caption
        assert "checkerboard" not in html_of(document)


def test_two_plans_stand_side_by_side_with_their_difference() -> None:
    """The second plan gives a tenth more to everything."""
    document = document_of(_two_plans(), ABOUT)
    organs = table_called(document, "MR-planned against SBRT 5x8: organs")
    at = [column.heading for column in organs.columns].index("D0.03cc (Gy) SBRT 5x8")
    (duodenum,) = [row for row in organs.rows if row[0] == "Duodenum"]
    assert duodenum[at : at + 3] == ("34.00", "37.40", "+3.40")
    targets = table_called(document, "MR-planned against SBRT 5x8: targets").rows
    assert ("GTVn1", "Coverage (%)", "97.5", "97.5", "0.0") in targets


def test_daily_positions_found_and_derived_structures_are_told() -> None:
    words = " ".join(said(document_of(_with_cone_beam(), ABOUT)))
    for told in (
        "2: CBCT",
        "The patient lies off plan by +1.2, −2.4, +3.5 mm along",
        "this compares coordinates only",
        "Of the drawn surface 50 % moved inward by more than 0.5 mm (at most 2.0 mm) and 25 %",
        "Found around it, contoured by nobody: zVessel",
        "Made from it: PTV_1 (PTV,",
    ):
        assert told in words, told


def test_a_level_of_headings_is_never_left_out() -> None:
    section = Section("Within", (Statement("Words."),), 2)
    assert "<h3>Within</h3>" in html_of(
        Document("T", "S", "W", (section,), "2026-01-01", "00:00:00", "1")
    )
