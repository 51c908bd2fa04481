"""Types 1 and 2 of every module of an object's IOD, and its modules.

The tables are those of highdicom (MIT), which generates them from PS3.3; none is kept here.
Mandatory modules are checked always, others once the object has an attribute that only they have.
Conditional types (1C, 2C) are not judged here: their conditions are sentences.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from highdicom._standard_utils import (
    get_iod_module_map,
    get_module_attribute_map,
    get_sop_class_iod_map,
)
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from handlers.lint.reading import is_empty
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import Subject, Together

ABSENT = Rule(
    "type1.missing",
    Level.ERROR,
    "an attribute that must be there and have a value (type 1) is absent",
    "PS3.5 7.4.1; modules of PS3.3",
    "write the attribute with its value",
)
EMPTY = Rule(
    "type1.empty",
    Level.ERROR,
    "an attribute that must have a value (type 1) is empty",
    "PS3.5 7.4.1; modules of PS3.3",
    "write the value",
)
ABSENT_2 = Rule(
    "type2.missing",
    Level.ERROR,
    "an attribute that must be there, if only empty (type 2), is absent",
    "PS3.5 7.4.3; modules of PS3.3; SlicerRt/SlicerRT#186 (MR Acquisition Type)",
    "write the attribute, empty if its value is unknown",
)

FUNCTIONAL_GROUPS = (
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""A macro stands in one of these, and many only if it applies (PS3.3 C.7.6.16.1): none must be in
both, as the flat tables would have it."""

CHOSEN_BY_VALUE_TYPE = frozenset({"sr-document-content"})
"""Modules of which an item has a part, chosen by its Value Type (PS3.3 C.17.3): see `documents`."""


@dataclass(slots=True)
class _Wanted:
    """What an item at some depth must have: types by tag, and what nested items must have."""

    types: dict[int, str] = field(default_factory=dict)
    nested: dict[int, "_Wanted"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    is_mandatory: bool
    wanted: _Wanted
    own_tags: frozenset[int]


@looks_for(ABSENT, EMPTY, ABSENT_2)
def attribute_types(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Compare an object with the modules of its IOD; of an unknown class only SOP Common."""
    found: dict[Place, Broken] = {}
    modules = _modules(subject.sop_class_uid)
    if not modules:
        yield NotChecked("no rules for the attributes of this SOP class")
        modules = _common()
    held = {int(tag) for tag in subject.ds.keys()}  # noqa: SIM118 - a dataset iterates elements
    for module in modules:
        if module.is_mandatory or held & module.own_tags:
            for broken in _missing(subject.ds, module.wanted, Place(), module.name):
                found.setdefault(broken.place, broken)
    yield from found.values()


def has_rules(sop_class_uid: str) -> bool:
    """Return whether the modules of this SOP class are known."""
    return bool(_modules(sop_class_uid))


def _missing(ds: Dataset, wanted: _Wanted, place: Place, module: str) -> Iterator[Broken]:
    held = {int(tag) for tag in ds.keys()}  # noqa: SIM118 - a dataset iterates elements
    for tag, kind in wanted.types.items():
        if tag not in held:
            rule = ABSENT if kind == "1" else ABSENT_2
            yield Broken(place.element(tag), f"module {module}", rule)
        elif kind == "1" and is_empty(ds, tag):
            yield Broken(place.element(tag), f"module {module}", EMPTY)
    for tag in wanted.nested.keys() & held:
        here = place.element(tag)
        try:
            items = ds[tag].value or ()
            for number, item in enumerate(items, start=1):
                yield from _missing(item, wanted.nested[tag], here.item(number), module)
        except (AttributeError, TypeError, ValueError, KeyError, EOFError, NotImplementedError):
            continue  # `elements` tells that the sequence cannot be read


@lru_cache(maxsize=64)
def _modules(sop_class_uid: str) -> tuple[_Module, ...]:
    iod = get_sop_class_iod_map().get(sop_class_uid)
    if iod is None:
        return ()
    told = [(m["key"], m["usage"] == "M") for m in get_iod_module_map()[iod]]
    wanted = {key: _wanted(key) for key, _ in told}
    mandatory = {t for key, is_m in told if is_m for t in _top_level_tags(key)}
    return tuple(
        _Module(key, is_m, wanted[key], frozenset(_top_level_tags(key) - mandatory))
        for key, is_m in told
    )


@lru_cache(maxsize=1)
def _common() -> tuple[_Module, ...]:
    names = ("patient", "general-study", "sop-common")
    return tuple(_Module(name, True, _wanted(name), frozenset()) for name in names)


def _top_level_tags(module: str) -> set[int]:
    told = get_module_attribute_map().get(module, ())
    tags = (tag_for_keyword(a["keyword"]) for a in told if not a["path"])
    return {tag for tag in tags if tag is not None}


@lru_cache(maxsize=256)
def _wanted(module: str) -> _Wanted:
    root = _Wanted()
    if module in CHOSEN_BY_VALUE_TYPE:
        return root
    for attribute in get_module_attribute_map().get(module, ()):
        tag = tag_for_keyword(attribute["keyword"])
        if attribute["type"] not in ("1", "2") or tag is None:
            continue
        if attribute["path"] and attribute["path"][-1] in FUNCTIONAL_GROUPS:
            continue
        level = root
        for keyword in attribute["path"]:
            sequence = tag_for_keyword(keyword)
            level = level.nested.setdefault(int(sequence or 0), _Wanted())
        level.types[tag] = attribute["type"]
    return root
