"""Section 8: what our own objects hold, and which codes they use."""

from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.tag import Tag

from handlers.encode.metric_codes import MEANINGS, SCHEME, SCHEME_NAME, SCHEME_UID, unit_of
from node.statement.markdown import table
from node.statement.objects import COPIED, MODULES, MODULES_OF, NOT_ALWAYS, TYPICAL


def annexes() -> str:
    """Return section 8."""
    return "\n\n".join(
        (
            "## 8 Annexes",
            _contents(),
            _codes(),
            "### 8.3 Private attributes, classes and transfer syntaxes\n\nNone is written; private "
            "attributes that arrive are kept. No standard extended, specialized or private SOP "
            "class is used.",
        )
    )


def _contents() -> str:
    named = [(one.name, ", ".join(modules)) for one, modules in MODULES_OF.items()]
    used = dict.fromkeys(module for modules in MODULES_OF.values() for module in modules)
    rows = [
        (module, *_attribute(keyword)) for module in used for keyword in MODULES[module].split()
    ]
    return (
        "### 8.1 Contents of objects that are made here\n\n"
        "Source: COPY, from the objects of the case (of the acquisition the MR's, else the "
        "planning CT's); AUTO, by the program. ALWAYS: the attribute is in every object of the "
        "class; ANAP: not always. An attribute of type 2 may be empty where the case has no "
        "value.\n\n"
        + table(("SOP class", "modules"), named)
        + "\n\n"
        + table(("module", "attribute", "tag", "VR", "presence", "source", "value"), rows)
    )


def _attribute(keyword: str) -> tuple[str, ...]:
    number = tag_for_keyword(keyword)
    assert number is not None  # noqa: S101 - the table names attributes of the dictionary
    return (
        dictionary_description(number),
        str(Tag(number)).replace(" ", ""),
        dictionary_VR(number),
        "ANAP" if keyword in NOT_ALWAYS else "ALWAYS",
        "COPY" if keyword in COPIED else "AUTO",
        TYPICAL.get(keyword, ""),
    )


def _codes() -> str:
    rows = [(value, meaning, unit_of(key).value) for key, (value, meaning) in MEANINGS.items()]
    return (
        f"### 8.2 Coded terms\n\nReports follow TID 1500 with codes of DCM, SCT and UCUM. Figures "
        f"that no standard scheme has are coded with {SCHEME} ({SCHEME_NAME}, UID {SCHEME_UID}), "
        "which every object that uses it names in Coding Scheme Identification Sequence. A figure "
        "that is not in the table has its name in capital letters as its code value.\n\n"
        + table(("code value", "meaning", "unit (UCUM)"), rows)
    )
