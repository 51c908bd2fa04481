"""Types 1 and 2 of every module of an object's IOD, and its modules.

The tables are those of `iod_tables`; none is kept here.
Mandatory modules are checked always, others once the object has an attribute that only they have.
Conditional types (1C, 2C) are not judged here: their conditions are sentences.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement

from handlers.lint.iod_tables import attributes_of_module, iod_of_sop_class, modules_of_iod
from handlers.lint.reading import element, is_empty
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
def attribute_types(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Compare an object with the modules of its IOD; of an unknown class only SOP Common."""
    found: dict[Place, Broken] = {}
    modules = _modules(subject.sop_class_uid)
    if not modules:
        yield NotChecked("no rules for the attributes of this SOP class")
        modules = _common()
    held = {int(tag) for tag in subject.ds.keys()}  # noqa: SIM118 - a dataset iterates elements
    for module in modules:
        if module.is_mandatory or held & module.own_tags:
            for broken in _missing(subject.ds, module, together.clean):
                found.setdefault(broken.place, broken)
    yield from found.values()


def has_rules(sop_class_uid: str) -> bool:
    """Return whether the modules of this SOP class are known."""
    return bool(_modules(sop_class_uid))


def _missing(ds: Dataset, module: _Module, clean: set[Hashable]) -> Iterator[Broken]:
    """Return what is missing at the top, then what is in sequences that were not seen before."""
    held = {int(tag) for tag in ds.keys()}  # noqa: SIM118 - a dataset iterates elements
    yield from _missing_here(ds, held, module.wanted, Place(), module.name)
    for tag in module.wanted.nested.keys() & held:
        found = element(ds, tag)
        sent = found.value if isinstance(found, RawDataElement) else None
        key = None if sent is None else (module.name, tag, sent)
        if key is not None and key in clean:
            continue
        told = list(_missing_in_items(ds, tag, module.wanted, Place(), module.name))
        yield from told
        if key is not None and not told:
            clean.add(key)


def _missing_here(
    ds: Dataset, held: set[int], wanted: _Wanted, place: Place, module: str
) -> Iterator[Broken]:
    for tag, kind in wanted.types.items():
        if tag not in held:
            rule = ABSENT if kind == "1" else ABSENT_2
            yield Broken(place.element(tag), f"module {module}", rule)
        elif kind == "1" and is_empty(ds, tag):
            yield Broken(place.element(tag), f"module {module}", EMPTY)


def _missing_in_items(
    ds: Dataset, sequence: int, wanted: _Wanted, place: Place, module: str
) -> Iterator[Broken]:
    here, of_items = place.element(sequence), wanted.nested[sequence]
    try:
        for number, item in enumerate(ds[sequence].value or (), start=1):
            held = {int(tag) for tag in item.keys()}  # noqa: SIM118 - as above
            yield from _missing_here(item, held, of_items, here.item(number), module)
            for tag in of_items.nested.keys() & held:
                yield from _missing_in_items(item, tag, of_items, here.item(number), module)
    except (AttributeError, TypeError, ValueError, KeyError, EOFError, NotImplementedError):
        return  # `elements` tells that the sequence cannot be read


@lru_cache(maxsize=64)
def _modules(sop_class_uid: str) -> tuple[_Module, ...]:
    iod = iod_of_sop_class().get(sop_class_uid)
    if iod is None:
        return ()
    told = [(m["key"], m["usage"] == "M") for m in modules_of_iod()[iod]]
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
    told = attributes_of_module().get(module, ())
    tags = (tag_for_keyword(a["keyword"]) for a in told if not a["path"])
    return {tag for tag in tags if tag is not None}


@lru_cache(maxsize=256)
def _wanted(module: str) -> _Wanted:
    root = _Wanted()
    if module in CHOSEN_BY_VALUE_TYPE:
        return root
    for attribute in attributes_of_module().get(module, ()):
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
