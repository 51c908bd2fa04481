"""BED, EQD2 and back against a table worked out by hand; alpha/beta by organ."""

from pathlib import Path

import numpy as np
import pytest

from handlers.dosimetry.biology import (
    ALPHA_BETA,
    LATE,
    TUMOR,
    alpha_beta_of,
    bed,
    dose_of_eqd2,
    eqd2,
    is_organ,
)

VECTORS = [
    # dose, fractions, BED10, BED3, BED2, EQD2 at 10, 3, 2.5, 2
    (45.0, 5, 85.5, 180.0, 247.5, 71.2, 108.0, 115.0, 123.8),
    (40.0, 5, 72.0, 146.7, 200.0, 60.0, 88.0, 93.3, 100.0),
    (35.0, 5, 59.5, 116.7, 157.5, 49.6, 70.0, 73.9, 78.8),
    (32.0, 5, 52.5, 100.3, 134.4, 43.7, 60.2, 63.3, 67.2),
    (30.0, 5, 48.0, 90.0, 120.0, 40.0, 54.0, 56.7, 60.0),
    (45.0, 3, 112.5, 270.0, 382.5, 93.8, 162.0, 175.0, 191.2),
    (22.2, 3, 38.6, 77.0, 104.3, 32.2, 46.2, 48.8, 52.2),
    (12.4, 1, 27.8, 63.7, 89.3, 23.1, 38.2, 41.1, 44.6),
    (25.3, 5, 38.1, 68.0, 89.3, 31.8, 40.8, 42.5, 44.7),
    (14.0, 1, 33.6, 79.3, 112.0, 28.0, 47.6, 51.3, 56.0),
]
"""Worked out by hand from n d (1 + d / (alpha/beta)), to 0.1 Gy."""

ROUNDING_GY = 0.0501
"""The table has one decimal; 71.25 was written as 71.2."""


@pytest.mark.parametrize("row", VECTORS)
def test_conversions_when_compared_with_the_table_agree_to_its_last_digit(
    row: tuple[float, ...],
) -> None:
    """Issue 7: EQD2 vectors to 0.1 Gy."""
    dose_gy, fractions, *told = row
    found = [bed(dose_gy, fractions=fractions, alpha_beta_gy=ratio) for ratio in (10, 3, 2)]
    found += [eqd2(dose_gy, fractions=fractions, alpha_beta_gy=ratio) for ratio in (10, 3, 2.5, 2)]
    assert np.abs(np.array(found) - told).max() <= ROUNDING_GY


@pytest.mark.parametrize(("fractions", "dose_gy"), [(5, 17.9), (3, 14.6), (1, 9.05)])
def test_dose_when_25_gy_of_the_cord_are_left_is_what_the_handbook_says(
    fractions: int, dose_gy: float
) -> None:
    """EQD2 of 25 Gy at alpha/beta 2: known pairs of the literature on the spinal cord."""
    found = dose_of_eqd2(25.0, fractions=fractions, alpha_beta_gy=2.0)
    assert float(found) == pytest.approx(dose_gy, abs=0.05)


def test_dose_when_converted_there_and_back_is_itself() -> None:
    doses = np.linspace(0.0, 120.0, 25).reshape(5, 5)
    fractions = np.array([1, 3, 5, 15, 30])
    there = eqd2(doses, fractions=fractions, alpha_beta_gy=2.5)
    back = dose_of_eqd2(there, fractions=fractions, alpha_beta_gy=2.5)
    assert back.shape == doses.shape
    assert np.abs(back - doses).max() < 1e-9


def test_eqd2_when_given_in_fractions_of_2_gy_is_the_dose() -> None:
    """By definition, whatever alpha/beta."""
    ratios = np.array([1.0, 2.0, 3.0, 10.0])
    assert eqd2(50.0, fractions=25, alpha_beta_gy=ratios) == pytest.approx(50.0)


def test_eqd2_when_dose_is_shared_by_two_courses_is_no_function_of_their_sum() -> None:
    """Why no axis of a histogram may be converted: 10 + 30 Gy is not 20 + 20 Gy."""
    uneven = sum(float(eqd2(d, fractions=5, alpha_beta_gy=3.0)) for d in (10.0, 30.0))
    even = 2.0 * float(eqd2(20.0, fractions=5, alpha_beta_gy=3.0))
    assert uneven > even + 1.0


@pytest.mark.parametrize("convert", [bed, eqd2, dose_of_eqd2])
@pytest.mark.parametrize(
    ("dose_gy", "fractions", "ratio", "told"),
    [
        (40.0, 0, 3.0, "fractions"),
        (40.0, -5, 3.0, "fractions"),
        (40.0, 5, 0.0, "alpha/beta"),
        (40.0, 5, -3.0, "alpha/beta"),
        (40.0, 5, float("nan"), "alpha/beta"),
        (-1.0, 5, 3.0, "dose"),
        (float("nan"), 5, 3.0, "dose"),
        (float("inf"), 5, 3.0, "dose"),
    ],
)
def test_conversion_when_a_number_makes_no_sense_is_refused(
    convert: object, dose_gy: float, fractions: float, ratio: float, told: str
) -> None:
    assert callable(convert)
    with pytest.raises(ValueError, match=told):
        convert([dose_gy], fractions=fractions, alpha_beta_gy=ratio)


@pytest.mark.parametrize(
    ("organ", "gy", "certainty"),
    [
        ("SpinalCord", 2.0, "verified"),
        ("spinalcord_PRV05", 2.0, "verified"),
        ("SpinalCord^Sub", 2.0, "verified"),
        ("Liver", 2.0, "verified"),
        ("Liver-GTV", 2.0, "verified"),
        ("Duodenum", 3.0, "verified"),
        ("Bowel_Small", 3.0, "verified"),
        ("Bowel_Large", 3.0, "secondary copy"),
        ("Kidney_L", 2.0, "secondary copy"),
        ("Kidneys", 2.0, "secondary copy"),
        ("Rib07_R", 3.0, "secondary copy"),
        ("BileDuct_Common", 3.0, "convention"),
        ("Gallbladder", 3.0, "convention"),
        ("Liverpool", 3.0, "convention"),
        ("", 3.0, "convention"),
    ],
)
def test_alpha_beta_when_asked_by_name_is_the_row_or_the_generic_one(
    organ: str, gy: float, certainty: str
) -> None:
    row = alpha_beta_of(organ)
    assert (row.gy, row.certainty) == (gy, certainty)


def test_alpha_beta_when_asked_for_a_target_is_that_of_tumors() -> None:
    assert alpha_beta_of("Liver", is_target=True) is TUMOR


def test_alpha_beta_when_listed_bears_source_and_certainty() -> None:
    """No number without an account; conventions are marked as such, nothing else is shipped."""
    for row in (*ALPHA_BETA, LATE, TUMOR):
        assert row.source
        assert row.gy > 0
    assert {row.certainty for row in ALPHA_BETA} <= {"verified", "secondary copy"}
    assert LATE.certainty == TUMOR.certainty == "convention"


def test_rows_when_compared_name_no_organ_twice() -> None:
    for row in ALPHA_BETA:
        for organ in row.organs:
            assert alpha_beta_of(organ) is row, organ


def test_name_when_it_only_begins_like_an_organ_is_another() -> None:
    assert is_organ("Lung_L", ["Lung"])
    assert is_organ("Rib3", ["Rib"])
    assert not is_organ("Lungs", ["Lung"])
    assert not is_organ("Rib123", ["Rib"])


def test_guide_when_compared_with_the_table_tells_every_row() -> None:
    """What a physicist reads is what the program takes."""
    guide = (Path(__file__).parents[1] / "deploy" / "reirradiation.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in row.split("|")] for row in guide.splitlines()]
    told = sorted((row[2], row[4]) for row in cells if len(row) == 6 and row[2].isdigit())
    rows = (*ALPHA_BETA, LATE, TUMOR)
    assert told == sorted((f"{row.gy:g}", row.certainty) for row in rows)
