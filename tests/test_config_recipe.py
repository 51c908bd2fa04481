"""What a protocol may ask of the refinement: bounds, switches for targets, further ROIs."""

from pathlib import Path

import pytest

from node.config import read_config
from node.protocol import MARGIN_KEYS
from tests.test_config import PROTOCOL, check_refused, written

RECIPE = """
[[protocol]]
name = "liver"
targets = ["GTV*"]
max_inward_mm = 8
max_uncertainty_mm = 2.5
may_enter = ["Liver*"]
review = ["probability-seg", "structures"]
[[protocol.target]]
name = "GTVp*"
refine = false
[[protocol.target]]
name = "GTV*"
max_outward_mm = 3.0
[[protocol.derived]]
name = "CTVn_u"
type = "CTV"
targets = ["GTVn*"]
from = "union"
when_abstained = "none"
[[protocol.derived]]
type = "PTV"
from = "CTVn_u"
[protocol.derived.margin_mm]
left_mm = 5
right_mm = 5
anterior_mm = 3
posterior_mm = 4
superior_mm = 8
inferior_mm = 0
[[protocol.derived.clip]]
organs = ["Duodenum*", "Stomach*"]
margin_mm = 3
[[protocol.derived]]
name = "PTV_{target}"
type = "PTV"
from = "drawn"
margin_mm = 5
"""


def test_recipe_when_read_holds_switches_and_further_rois(tmp_path: Path) -> None:
    """Issue 5, point 5: everything that the protocol can ask for."""
    (protocol,) = read_config(written(tmp_path, RECIPE)).protocol
    assert (protocol.max_inward_mm, protocol.max_uncertainty_mm) == (8.0, 2.5)
    assert protocol.may_enter == ("Liver*",)
    assert protocol.review == ("probability-seg", "structures")
    assert [(t.name, t.refine, t.max_outward_mm) for t in protocol.target] == [
        ("GTVp*", False, None),
        ("GTV*", True, 3.0),
    ]
    union, six, even = protocol.derived
    assert (union.name, union.source, union.when_abstained) == ("CTVn_u", "union", "none")
    assert union.margin_mm.is_zero
    assert [getattr(six.margin_mm, key) for key in MARGIN_KEYS] == [5, 5, 3, 4, 8, 0]
    assert [(c.organs, c.margin_mm) for c in six.clip] == [(("Duodenum*", "Stomach*"), 3.0)]
    assert {getattr(even.margin_mm, key) for key in MARGIN_KEYS} == {5.0}


def test_recipe_when_left_out_asks_for_nothing_new(tmp_path: Path) -> None:
    """All of it is optional: without it, targets are refined and nothing else is made."""
    (protocol,) = read_config(written(tmp_path, PROTOCOL)).protocol
    assert (protocol.max_outward_mm, protocol.max_inward_mm) == (5.0, 10.0)
    assert protocol.max_uncertainty_mm == 3.0
    asked = (protocol.may_enter, protocol.review, protocol.target, protocol.derived)
    assert asked == ((), (), (), ())


DERIVED = '[[protocol]]\nname = "a"\ntargets = ["x"]\n[[protocol.derived]]\n'


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            'type = "CTV"\nfrom = "drawn"\nmargin_mm = -1',
            "protocol[1].derived[1].margin_mm: must lie between 0 and 50: a target never shrinks",
        ),
        (
            'type = "CTV"\nfrom = "drawn"\nmargin_mm = "5"',
            "protocol[1].derived[1].margin_mm: must be a number of mm, or a table of left_mm, "
            "right_mm, anterior_mm, posterior_mm, superior_mm, inferior_mm",
        ),
        (
            'type = "OAR"\nfrom = "drawn"',
            "protocol[1].derived[1].type: Input should be 'GTV', 'CTV' or 'PTV'",
        ),
        ('type = "CTV"', "protocol[1].derived[1].from: missing"),
        (
            'type = "CTV"\nform = "drawn"\nfrom = "drawn"',
            "protocol[1].derived[1].form: unknown key; did you mean from?",
        ),
        (
            'type = "CTV"\nfrom = "later"\n[[protocol.derived]]\nname = "later"\n'
            'type = "CTV"\nfrom = "drawn"',
            "protocol 'a': derived[1].from 'later' is none of drawn, refined, union, "
            "intersection, nor the name of an earlier derived entry",
        ),
        (
            'name = "u"\ntype = "CTV"\nfrom = "union"\n[[protocol.derived]]\nname = "U"\n'
            'type = "CTV"\nfrom = "drawn"',
            "protocol 'a': derived name 'u' is used twice",
        ),
        (
            'name = "Union"\ntype = "CTV"\nfrom = "drawn"',
            "protocol 'a': derived[1].name 'Union' has another meaning in `from`",
        ),
        (
            'name = "CTV of the node"\ntype = "CTV"\nfrom = "drawn"',
            "protocol[1].derived[1]: name 'CTV of the node' may hold letters, digits, ^ + _ . - "
            "and {target}",
        ),
        (
            'name = "PTV_{target}_and_more_mm"\ntype = "PTV"\nfrom = "drawn"',
            "protocol[1].derived[1]: name 'PTV_{target}_and_more_mm' is longer than the 16 "
            "characters that a TPS keeps",
        ),
        (
            'name = "{target}{target}"\ntype = "PTV"\nfrom = "drawn"',
            "protocol[1].derived[1]: name '{target}{target}' holds {target} more than once",
        ),
        (
            'type = "PTV"\nfrom = "drawn"\n[[protocol.derived.clip]]\norgans = ["x"]',
            "protocol[1].derived[1]: clip cuts margins only: give margin_mm, or leave out clip",
        ),
        (
            'type = "PTV"\nfrom = "drawn"\nmargin_mm = 5\n[[protocol.derived.clip]]\n'
            'organs = ["x"]\nmargin_mm = 21',
            "protocol[1].derived[1].clip[1].margin_mm: Input should be less than or equal to 20",
        ),
    ],
)
def test_further_roi_when_wrong_is_refused_by_its_key(
    tmp_path: Path, entry: str, problem: str
) -> None:
    """Every mistake is named where it stands."""
    check_refused(tmp_path, DERIVED + entry, problem)


def test_recipe_when_wrong_in_many_places_names_all_of_them(tmp_path: Path) -> None:
    """One correction is enough: faults within and between entries come together."""
    check_refused(
        tmp_path,
        '[[protocol]]\nname = "a"\ntargets = ["x"]\nreview = ["all"]\nmax_inward_mm = 31\n'
        'max_uncertainty_mm = 6\n[[protocol.target]]\nrefine = "no"\n'
        '[[protocol.derived]]\ntype = "PTV"\nfrom = "x"\nmargin_mm = 51',
        "protocol[1].review[1]: Input should be 'probability-seg', 'probability-map' or "
        "'structures'",
        "protocol[1].max_inward_mm: Input should be less than or equal to 30",
        "protocol[1].max_uncertainty_mm: Input should be less than or equal to 5",
        "protocol[1].target[1].name: missing",
        "protocol[1].target[1].refine: Input should be a valid boolean",
        "protocol[1].derived[1].margin_mm: must lie between 0 and 50: a target never shrinks",
        "protocol 'a': derived[1].from 'x' is none of drawn, refined, union, intersection, nor "
        "the name of an earlier derived entry",
    )
