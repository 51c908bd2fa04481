"""Which organ an ROI is by its name: names as departments write them, and names that are traps."""

import random
from pathlib import Path

import pydicom
import pytest

from handlers.organ_names import HAS_MARK, MAY_BE_COPY, SIDE_MISSING, UNKNOWN, Organ, organ_names
from handlers.roi_names import numbered
from node.limit_tables import names_of
from node.outline_program import ORGANS
from node.protocol import OrganRule

NAMES = names_of(())

KNOWN = {
    "Liver": (
        "Liver", "LIVER", "liver ", "Liver_CT", "Liver (CT)", "Liver_planCT", "Hepar", "Leber",
        "LEBER",
        "Leber_gesamt", "Gesamtleber", "foie", "Foie total", "Karaciğer", "KARACİĞER", "KARACIGER",
        "karaciger", "Liver_TS", "Liver (ROI 12)",
    ),
    "Liver-GTV": (
        "Liver-GTV", "liver-gtv", "Liver - GTV", "Liver_-_GTV", "Liver minus GTV", "Liver-GTVs",
        "Leber-GTV", "Leber ohne GTV", "Leber_minus_GTV", "foie-GTV", "Foie moins GTV",
        "Foie sans GTV",
        "Karaciğer-GTV", "Karaciğer hariç GTV", "Karaciger eksi GTV",
    ),
    "Stomach": ("Stomach", "STOMACH", "Magen", "Estomac", "Mide", "Gaster"),
    "Duodenum": (
        "Duodenum", "DUODENUM", "duodenum ", "Duodénum", "Zwölffingerdarm", "Zwoelffingerdarm",
        "Oniki parmak bağırsağı", "12 parmak bagirsagi", "Duodenum (ROI 3)",
    ),
    "Bowel_Small": (
        "Bowel_Small", "Small Bowel", "SmallBowel", "small_bowel", "Bowel_sm_planCT", "Dünndarm",
        "Duenndarm", "DÜNNDARM", "Dunndarm", "Intestin grêle", "Grele", "İnce bağırsak",
        "INCE BARSAK",
    ),
    "Bowel_Large": ("Bowel_Large", "large bowel", "Dickdarm", "Gros intestin", "Kalın bağırsak"),
    "Colon": ("Colon", "Kolon", "Côlon", "COLON"),
    "Colon_Decending": ("Colon_Decending", "Colon_Descending", "Descending colon"),
    "Jejunum_Ileum": ("Jejunum_Ileum", "Jejunum/Ileum", "Jéjuno-iléon"),
    "Spc_Bowel": ("Spc_Bowel", "BowelBag", "Bag_Bowel", "Bowel Bag"),
    "Esophagus": (
        "Esophagus", "Oesophagus", "Ösophagus", "OESOPHAGUS", "Speiseröhre", "Œsophage",
        "Oesophage",
        "Özofagus", "Yemek borusu",
    ),
    "SpinalCord": (
        "SpinalCord", "Spinal Cord", "SPINAL_CORD", "Cord", "Rückenmark", "Rueckenmark", "Myelon",
        "Moelle épinière", "MOELLE", "Omurilik", "Medulla spinalis",
    ),
    "SpinalCanal": ("SpinalCanal", "Spinal Canal", "Spinalkanal", "Canal médullaire"),
    "SpinalCord^Sub": ("SpinalCord^Sub",),
    "Kidney_L": (
        "Kidney_L", "Kidney L", "KidneyL", "L Kidney", "Left Kidney", "LT_KIDNEY", "kidney_left",
        "Kidney, left", "Niere li", "Niere_li.", "NIERE LINKS", "linke Niere", "Niere L",
        "Rein gauche",
        "Rein_G", "REIN G", "Sol böbrek", "Böbrek_sol", "Kidney_L_TS", "Ren sin",
    ),
    "Kidney_R": (
        "Kidney_R", "Right kidney", "Rt Kidney", "Niere re", "Niere_RECHTS", "rechte Niere",
        "Rein droit",
        "Rein_D", "Sağ Böbrek", "Sag bobrek", "Böbrek sağ", "kidney_right",
    ),
    "Kidneys": (
        "Kidneys", "Nieren", "Reins", "Böbrekler", "Niere bds", "Nieren (CT)", "Kidney_L+R",
    ),
    "Kidney_Cortex": ("Kidney_Cortex", "Renal cortex both", "Nierenrinde bds."),
    "Kidney_Cortex_L": ("Kidney_Cortex_L", "Left renal cortex", "Nierenrinde li"),
    "Kidney_Hilum": ("Kidney_Hilum_L", "Kidney_Hilum_R", "Nierenhilus re", "Renal Hilum left"),
    "Lung_L": (
        "Lung_L", "LUNG_L", "Lt Lung", "Left Lung", "Lunge li", "linke Lunge", "Poumon gauche",
    ),
    "Lung_R": ("Lung_R", "Lunge re", "Poumon D", "Sağ akciğer", "rechter Lungenflügel"),
    "Lungs": ("Lungs", "Lungen", "Lunge bds", "Poumons", "Akciğerler", "Lunge gesamt", "Lung both"),
    "Lungs-GTV": ("Lungs-GTV", "Lunge bds-GTV"),
    "Heart": ("Heart", "HEART", "Herz", "Cœur", "Coeur", "Kalp"),
    "Rib": (
        "Rib", "Rib05_L", "rib_left_5", "Rippe 5 li", "5. Rippe rechts", "Rippe", "Côte 7 droite",
    ),
    "Ribs": ("Ribs", "Rippen", "Rippen re", "Kaburgalar"),
    "GreatVes": ("GreatVes", "Great Vessels", "Große Gefäße"),
    "A_Aorta": ("A_Aorta", "Aorta", "Aorte", "Aort", "A_Aorta_TS"),
    "V_Venacava_I": ("V_Venacava_I", "IVC", "VCI", "Vena cava inferior"),
    "V_Portal": ("V_Portal", "Pfortader", "Veine porte"),
    "Skin": ("Skin", "Haut", "Peau", "Cilt"),
    "CaudaEquina": ("CaudaEquina", "Cauda equina", "Queue de cheval"),
    "Chestwall_R": ("Chestwall_R", "Chest wall right", "Thoraxwand re"),
    "Spleen": ("Spleen", "Milz", "Rate", "Dalak"),
}  # fmt: skip

TRAPS = (
    # planning structures
    "Duodenum_PRV05", "Duodenum PRV", "PRV_Duodenum", "SpinalCord_PRV03", "zLiver", "z_Liver",
    "zz_Magen",
    "opt_Duodenum", "Duodenum_opt", "NOT_Liver", "notLiver", "Liver_ring", "Ring_Leber",
    "Liver-PTV",
    "Leber-CTV", "Leber minus PTV", "Liver_GTV", "GTV_Liver", "Liver PTV", "Hilfsleber",
    "Avoid_Stomach",
    "Stomach_avoid", "Liver+5mm", "Liver 5mm", "Liver_exp", "Liver-5", "Stomach_sub",
    "Kidney_L_eval",
    "Duodenum in PTV", "PTV-Duodenum", "Duodenum x PTV", "Dose 50%", "BODY", "External", "Couch",
    # marks of TG-263: not for evaluation, a part
    "_Liver", "Liver_", "Liver-", "-Liver", "Liver~", "Lung~_L", "~Liver", "Liver!", "?Colon",
    "Liver*",
    "*Liver", "Liver?", "#Liver", "Liver^mod",
    # parts, sums and neighbours
    "Stomach_duo_planCT", "StomachDuodenum", "Stomach+Duodenum", "Liver_left", "Leber li",
    "Liver_L",
    "Liver dome", "half liver", "Liver hilum", "Leberhilus", "Leberarterie", "Hepatic artery",
    "Liver cyst", "Lungenarterie", "Nierenbecken", "Kidney pelvis L", "Magenwand", "Heart_LAD",
    "Herzwand", "Portal", "Pankreaskopf", "Esophagus upper", "Upper esophagus", "Kidney_LR_PRV",
    "Lung_LUL", "Lung_L_upper", "Lung_RLL", "Lungentumor", "Skin_3mm",
    # copies and other images
    "Liver_1", "Liver2", "Leber 2", "Duodenum_old", "Duodenum_alt", "Copy of Liver", "Liver_copy",
    "Bowel_sm_CBCT", "Liver_MR", "Liver_4D", "Liver_auto", "Kidney_L1",
    # a side is missing, or means something else
    "Lung", "Lunge", "Kidney", "Niere", "Rein", "Poumon", "Böbrek", "Akciğer", "Niere mitte",
    "Kidney_M", "Lung D", "Lung G", "Kidney sol", "Lunge gauche",
    # two meanings, no meaning, nothing
    "Cauda", "GB", "AC", "KC", "SC", "L", "R", "1", "", " ", "ROI", "Tumor Bed", "Nodes", "GTV",
    "PTV50",
    "Livre", "Lever", "Liverr", "Duodneum", "Hart", "Hertz", "organ", "\x00", "Лёгкое",
    "Liver" + 60 * " " + "CT", "a" + 10_000 * "_" + "b",
)  # fmt: skip


@pytest.mark.parametrize(
    ("roi_name", "organ"), [(name, organ) for organ, given in KNOWN.items() for name in given]
)
def test_name_when_it_is_an_organs_is_understood(roi_name: str, organ: str) -> None:
    """Issue 7.3: ROI names are matched through TG-263 with German, French and Turkish synonyms."""
    assert NAMES.named(roi_name).organ == organ


@pytest.mark.parametrize("roi_name", TRAPS)
def test_name_when_it_is_no_organs_is_left_alone(roi_name: str) -> None:
    """A planning structure, a part or a sum of organs bears no limit of the organ."""
    found = NAMES.named(roi_name)
    assert found.organ == ""
    assert found.reason


def test_names_when_made_of_the_same_words_mean_one_organ_each() -> None:
    """No name in the file has two meanings, and no half of a pair is an organ by itself."""
    assert {name for name, organs in NAMES.meanings.items() if len(organs) > 1} == set()
    assert NAMES.halves.isdisjoint(NAMES.meanings)


@pytest.mark.parametrize(
    ("roi_name", "reason"),
    [
        ("Niere", SIDE_MISSING),
        ("_Liver", HAS_MARK),
        ("Liver-", HAS_MARK),
        ("Liver_2", MAY_BE_COPY),
        ("Duodenum_PRV05", UNKNOWN),
        ("Lunge-GTV", SIDE_MISSING),
    ],
)
def test_name_when_left_alone_tells_why(roi_name: str, reason: str) -> None:
    assert NAMES.named(roi_name).reason == reason


def test_name_when_two_organs_share_it_is_ambiguous() -> None:
    """Two meanings are none, and both are told."""
    names = organ_names(
        [Organ("Cecum", {"de": ("Cauda",)}), Organ("CaudaEquina", {"x": ("cauda",)})], {}
    )
    assert names.named("CAUDA").organ == ""
    assert names.named("CAUDA").reason == "it may be CaudaEquina or Cecum"


def test_department_when_it_names_an_organ_is_believed_to_the_letter() -> None:
    """A department's word counts before all rules, for exactly the name that it gives."""
    names = names_of(
        [
            OrganRule(name="Duodenum", roi_names=("Duo_PRV", "z_Duo", "Liver_1")),
            OrganRule(name="SpinalCord", roi_names=("Spinalkanal",)),
        ]
    )
    told = ("duo_prv", "Z_DUO ", numbered("Duo_PRV", 4), "Liver_1", "Spinalkanal", "Spinal Canal")
    assert [names.organ_of(name) for name in told] == [
        *["Duodenum"] * 4, "SpinalCord", "SpinalCanal",
    ]  # fmt: skip
    assert [names.organ_of(name) for name in ("Duo PRV", "Duo-PRV", "Duo")] == ["", "", ""]


def test_outlines_of_the_second_opinion_when_named_are_organs() -> None:
    """Organs that the outside program outlines are held to limits like drawn ones."""
    assert [NAMES.organ_of(f"{organ.name}_TS") for organ in ORGANS] == [o.name for o in ORGANS]


def test_what_holds_an_organ_when_asked_is_told_nearest_first() -> None:
    assert NAMES.holders("Jejunum_Ileum") == ("Bowel_Small", "Bowel")
    assert "A_Aorta" in NAMES.held("GreatVes")
    assert NAMES.pair("Kidneys") == ("Kidney_L", "Kidney_R")
    assert NAMES.pair("Liver") is None


def test_names_when_letters_are_added_at_random_are_never_an_organ() -> None:
    """One more letter, digit or word makes another name; unless that is one of an organ, too."""
    chance = random.Random(7)
    for name in [name for given in KNOWN.values() for name in given]:
        organ = NAMES.organ_of(name)
        changed = f"{name.strip()}{chance.choice(['x', '7mm', '_q', ' hot', '~', '^a', '+3'])}"
        assert NAMES.organ_of(changed) == "", (name, organ, changed)


@pytest.mark.real_data
def test_names_of_public_structure_sets_when_read_are_understood(real_data: Path) -> None:
    """Names that others gave: what is plain is matched, what is not is left alone."""
    found: dict[str, str] = {}
    for part in (
        "pancreas-ct/RTSTRUCT.dcm",
        "pancreas-ct/CBCT_RTSTRUCT.dcm",
        "rt-dose-plan/rtss.dcm",
    ):
        for roi in pydicom.dcmread(real_data / part).StructureSetROISequence:
            found[str(roi.ROIName)] = NAMES.organ_of(str(roi.ROIName))
    assert {name: organ for name, organ in found.items() if organ} == {
        "Bowel_sm_planCT": "Bowel_Small",
        "LUNG_L": "Lung_L",
        "LUNG_R": "Lung_R",
        "Heart": "Heart",
        "Lt Lung": "Lung_L",
    }
    assert {"Stomach_duo_planCT", "Bowel_sm_CBCT", "ROI", "BODY", "Tumor Bed Block"} <= set(found)
