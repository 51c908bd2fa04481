"""Further ROIs by the protocol: what they are made of, what they are called, what they say."""

from dataclasses import replace

import numpy as np
import pytest

from handlers.derived import ClipRule, DerivedRule, TargetVersions, derive
from handlers.geometry import Geometry
from handlers.margins import Margins
from handlers.results import DerivedTarget, Refinement, TargetStatus
from handlers.roi_names import derived_name
from handlers.values import Finding, Mask, Roi

GRID = Geometry("1.2", np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]], (40, 40, 40))


def ball(radius_mm: float, x_mm: float) -> Mask:
    return Mask(GRID, GRID.distances_mm((x_mm, 20.0, 20.0)) <= radius_mm)


DRAWN, REFINED = ball(8.0, 18.0), ball(7.0, 21.0)
VERSIONS = TargetVersions(
    Roi(3, "GTVn", "GTV", ()),
    DRAWN,
    Refinement(TargetStatus.REFINED, REFINED, ()),
    "GTVn_CT1MR1",
)
ABSTAINED = replace(
    VERSIONS, refinement=Refinement(TargetStatus.ABSTAINED, None, ("no MR",)), refined_name=None
)


def made(
    *rules: DerivedRule,
    target: TargetVersions = VERSIONS,
    organs: dict[str, Mask] | None = None,
) -> tuple[tuple[DerivedTarget, ...], tuple[Finding, ...]]:
    return derive(target, rules, organs or {}, {"gtvn", "gtvn_ct1mr1"})


@pytest.mark.parametrize(
    ("source", "expected", "words"),
    [
        ("drawn", DRAWN.inside, "Drawn ROI 3 (GTVn)."),
        ("refined", REFINED.inside, "From ROI 3 (GTVn): refined GTVn_CT1MR1."),
        ("union", DRAWN.inside | REFINED.inside, "Union of drawn ROI 3"),
        ("intersection", DRAWN.inside & REFINED.inside, "Intersection of drawn ROI 3"),
    ],
)
def test_combination_when_asked_for_is_that_of_the_voxels(
    source: str, expected: np.ndarray, words: str
) -> None:
    """Issue 5, point 5: union, intersection or the refined target as CTV."""
    (ctv,), findings = made(DerivedRule("CTVn_x", "CTV", source))
    assert np.array_equal(ctv.mask.inside, expected)
    assert (ctv.name, ctv.interpreted_type) == ("CTVn_x", "CTV")
    assert ctv.description.startswith(words)
    assert findings == ()


def test_margin_when_built_on_an_earlier_roi_says_what_was_left_out() -> None:
    """PTV from the union, 5 mm, 2 mm from the duodenum: the description tells the volume."""
    duodenum = Mask(GRID, ball(6.0, 34.0).inside)
    (ctv, ptv), findings = made(
        DerivedRule("CTVn_u", "CTV", "union"),
        DerivedRule(
            None,
            "PTV",
            "CTVn_u",
            margins=Margins.even(5.0),
            clips=(ClipRule(("Duo*",), 2.0), ClipRule(("Stomach*",))),
        ),
        organs={"Duodenum": duodenum},
    )
    assert ptv.name == "PTVn_CT1MR1"
    assert ctv.mask.inside[~ptv.mask.inside].sum() == 0
    added = ptv.mask.inside & ~ctv.mask.inside
    assert added.any()
    assert not (added & ball(7.4, 34.0).inside).any()
    (uncut,), _ = made(DerivedRule(None, "PTV", "union", margins=Margins.even(5.0)))
    cut_cm3 = (uncut.mask.inside & ~ptv.mask.inside).sum() / 1000
    assert f"Stays 2 mm from Duodenum ({cut_cm3:.2f} cm3 left out)." in ptv.description
    assert "Margin 5 mm on all sides." in ptv.description
    assert "No ROI Stomach* is drawn to stay away from." in ptv.description
    assert [f.code for f in findings] == ["derived.organ_absent"]


def test_overlap_with_an_organ_when_it_was_there_before_stays_and_is_told() -> None:
    """What a margin grows from is never cut."""
    organ = Mask(GRID, ball(5.0, 27.0).inside)
    shared = DRAWN.inside & organ.inside
    (ptv,), _ = made(
        DerivedRule(None, "PTV", "drawn", margins=Margins.even(4.0), clips=(ClipRule(("*",)),)),
        organs={"Stomach": organ},
    )
    assert ptv.mask.inside[shared].all()
    assert not (ptv.mask.inside & organ.inside & ~DRAWN.inside).any()
    told = f"What it grew from overlaps Stomach by {shared.sum() / 1000:.2f} cm3, which stays."
    assert told in ptv.description


def test_target_that_stays_as_drawn_when_combined_counts_as_drawn_or_not_at_all() -> None:
    """`when_abstained`: "drawn" says so; "none" makes nothing, says why, and so on after it."""
    (ctv,), findings = made(DerivedRule(None, "CTV", "union"), target=ABSTAINED)
    assert np.array_equal(ctv.mask.inside, DRAWN.inside)
    assert ctv.description == "Drawn ROI 3 (GTVn), since it was not refined."
    assert (ctv.name, findings) == ("CTVn_CT1", ())
    nothing, findings = made(
        DerivedRule("CTVn_u", "CTV", "union", when_abstained="none"),
        DerivedRule("PTVn_u", "PTV", "CTVn_u", margins=Margins.even(3.0)),
        target=ABSTAINED,
    )
    assert nothing == ()
    assert [f.text for f in findings] == [
        "no 'CTVn_u' is made from target 'GTVn': the target stays as drawn",
        "no 'PTVn_u' is made from target 'GTVn': 'CTVn_u' was not made from it, or is empty",
    ]


def test_rule_when_for_other_targets_makes_nothing() -> None:
    """`targets` of a rule are ROI name patterns, ignoring case."""
    assert made(DerivedRule("x", "CTV", "drawn", ("GTVp*",))) == ((), ())
    (ctv,), _ = made(DerivedRule("x", "CTV", "drawn", ("gtvN",)))
    assert ctv.name == "x"


@pytest.mark.parametrize(
    ("template", "kind", "source", "taken", "expected"),
    [
        (None, "PTV", "GTVn_left", set(), "PTVnleft_CT1MR1"),
        (None, "CTV", "Lymph node, very large", set(), "CTVLymphn_CT1MR1"),
        (None, "CTV", "GTV", {"ctv_ct1mr1"}, "CTV1_CT1MR1"),
        ("CTVn_u", "CTV", "GTVn", {"ctvn_u"}, "CTVn_u1"),
        ("PTV_{target}_5", "PTV", "GTV primary tumour", set(), "PTV_GTVprimary_5"),
        ("PTV_{target}_5", "PTV", "GTV primary tumour", {"ptv_gtvprimary_5"}, "PTV_GTVprimar1_5"),
    ],
)
def test_name_when_made_has_16_characters_and_is_free(
    template: str | None, kind: str, source: str, taken: set[str], expected: str
) -> None:
    """TG-263: at most 16 characters; unique ignoring case."""
    name = derived_name(template, kind, source, taken, has_mr=True)
    assert name == expected
    assert len(name) <= 16
