"""Which organ an ROI is, by its name: TG-263 names with synonyms in several languages.

A name is either explained whole or left alone: nothing is searched within it, and likeness does not
count. What is no organ (planning structures, rings, margins around an organ, parts of it, two
organs in one) therefore never passes for one. What a department says itself comes first.

Read first: AAPM TG-263 (2018), Standardizing Nomenclatures in Radiation Oncology.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from handlers.roi_names import without_number

LESS_TUMOR = "-GTV"
"""Behind the name of an organ: less the gross tumor, as TG-263 writes it."""

SIDE_MISSING = "whether the left one, the right one or both are meant is not told"
"""Why one of a pair is no organ."""

HAS_MARK = "a mark at its beginning or end makes it a planning structure"
"""TG-263, recommendation for structures that are not for evaluation of dose."""

MAY_BE_COPY = "its number may mean a part or a copy"
"""Why an organ with a number is none."""

UNKNOWN = "no organ is known by this name"
"""Why any other name is no organ."""

LONGEST_NAME = 64
"""Characters of a ROI Name (VR LO); what is longer is no name of an organ."""

_SEPARATORS = re.compile(r"[\s_.,:;/()\[\]-]+")

_MARKED = re.compile(r"[\W_].*|.*[_-]", re.DOTALL)

_UNACCENTED = str.maketrans({"ı": "i", "œ": "oe", "æ": "ae", "ø": "o"})

_TRANSCRIBED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})

_DIFFERENCE = re.compile(
    r"(?P<organ>.+?)[\s_.]*(?:-|minus|without|excl|exkl|ohne|moins|sans|eksi|hari[cç])[\s_.]*GTVs?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sides:
    """How one language says which of two."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    both: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Organ:
    """An organ and what it is called; several may stand for the same name.

    Attributes:
        name: TG-263 name; of a pair, that of both together.
        words: What it is called, by language.
        left: Of a pair, TG-263 name of the left one. `words` are then those of one of the two, and
            mean an organ only together with a side.
        right: Of the right one.
        has_sides: Each side is the organ, as each rib is a rib.
        numbers: Up to which number each is the organ, likewise; 0: none is.
        holds: TG-263 names of what lies within it.
    """

    name: str
    words: Mapping[str, tuple[str, ...]]
    left: str = ""
    right: str = ""
    has_sides: bool = False
    numbers: int = 0
    holds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """What the name of an ROI means.

    Attributes:
        organ: TG-263 name; empty: none that is known.
        reason: Why none; empty else.
    """

    organ: str
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class OrganNames:
    """All organs that are known. Made by `organ_names`.

    Attributes:
        organs: What they are called.
        meanings: TG-263 names by folded name; more than one: it is ambiguous.
        halves: Folded names of one of a pair, without a side.
        followers: Folded words that may follow the name of an organ, for its images or its author.
        own: TG-263 names by what a department calls its ROIs, case-folded.
    """

    organs: tuple[Organ, ...]
    meanings: Mapping[str, frozenset[str]]
    halves: frozenset[str]
    followers: frozenset[str]
    own: Mapping[str, str]

    def named(self, roi_name: str) -> Named:
        """Return what an ROI is, by its name."""
        plain = without_number(roi_name).strip()
        own = self.own.get(plain.casefold())
        if own is not None:
            return Named(own)
        if len(plain) > LONGEST_NAME:
            return Named("", UNKNOWN)
        if _MARKED.fullmatch(plain):
            return Named("", HAS_MARK)
        found = self._explained(plain)
        if not found.organ and (less := _DIFFERENCE.fullmatch(plain)):
            whole = self._explained(less["organ"])
            return Named(f"{whole.organ}{LESS_TUMOR}") if whole.organ else whole
        if not found.organ and found.reason == UNKNOWN and (shorter := self._shortened(plain)):
            return self._explained(shorter)
        return found

    def organ_of(self, roi_name: str) -> str:
        """Return the TG-263 name of an ROI; empty: none that is known."""
        return self.named(roi_name).organ

    def holders(self, organ: str) -> tuple[str, ...]:
        """Return what an organ lies within, in the order of the file."""
        return tuple(dict.fromkeys(each.name for each in self.organs if organ in each.holds))

    def held(self, organ: str) -> tuple[str, ...]:
        """Return what lies within an organ."""
        return tuple(held for each in self.organs if each.name == organ for held in each.holds)

    def pair(self, organ: str) -> tuple[str, str] | None:
        """Return the left and the right one of a pair that `organ` is both of; None: it is none."""
        return next(
            ((each.left, each.right) for each in self.organs if each.name == organ and each.left),
            None,
        )

    def _explained(self, name: str) -> Named:
        key = _folded(name)
        meanings = self.meanings.get(key, frozenset())
        if len(meanings) == 1:
            return Named(*meanings)
        if meanings:
            return Named("", f"it may be {' or '.join(sorted(meanings))}")
        if key in self.halves:
            return Named("", SIDE_MISSING)
        without_digits = key.rstrip("0123456789")
        if without_digits != key and without_digits in self.meanings:
            return Named("", MAY_BE_COPY)
        return Named("", UNKNOWN)

    def _shortened(self, name: str) -> str:
        """Return a name without a last word that says nothing of the organ; empty: it has none."""
        words = [word for word in _SEPARATORS.split(name) if word]
        is_followed = len(words) > 1 and _folded(words[-1]) in self.followers
        return " ".join(words[:-1]) if is_followed else ""


def organ_names(
    organs: Sequence[Organ],
    sides: Mapping[str, Sides],
    followers: Iterable[str] = (),
    own: Mapping[str, str] | None = None,
) -> OrganNames:
    """Return organs as a thing that can be asked.

    Case, accents and separators do not count, and umlauts may be transcribed (ae, oe, ue). Words of
    a language go with the sides of that language and with English ones.

    Args:
        organs: What they are called.
        sides: By language; English is `en`.
        followers: As in `OrganNames`.
        own: TG-263 names by ROI name; case does not count, all else does.

    Example:
        >>> names = organ_names(
        ...     [Organ("Liver", {"de": ("Leber",)}),
        ...      Organ("Kidneys", {"de": ("Niere",)}, left="Kidney_L", right="Kidney_R")],
        ...     {"de": Sides(("li", "links"), ("re", "rechts"), ("bds",))})
        >>> [names.organ_of(name) for name in ("LEBER", "Niere_li.", "Niere bds", "Leber-GTV")]
        ['Liver', 'Kidney_L', 'Kidneys', 'Liver-GTV']
        >>> [names.organ_of(name) for name in ("Leber_PRV05", "zLeber", "_Leber", "Leber~")]
        ['', '', '', '']
        >>> names.named("Niere").reason
        'whether the left one, the right one or both are meant is not told'
    """
    meanings: dict[str, set[str]] = {}
    halves: set[str] = set()
    for organ in organs:
        for key, meaning in _keys(organ, sides):
            if meaning:
                meanings.setdefault(key, set()).add(meaning)
            else:
                halves.add(key)
    return OrganNames(
        organs=tuple(organs),
        meanings={key: frozenset(found) for key, found in meanings.items()},
        halves=frozenset(halves - set(meanings)),
        followers=frozenset(_folded(word) for word in followers),
        own={name.strip().casefold(): organ for name, organ in (own or {}).items()},
    )


def _keys(organ: Organ, sides: Mapping[str, Sides]) -> Iterator[tuple[str, str]]:
    """Give every folded name of an organ with what it means; empty: one of a pair, no side."""
    for name in (organ.name, organ.left, organ.right):
        if name:
            yield _folded(name), name
    plain = "" if organ.left else organ.name
    own = {"en": (organ.name,)} if plain else {}
    for language, words in (*own.items(), *organ.words.items()):
        spoken = [sides[each] for each in dict.fromkeys((language, "en")) if each in sides]
        for word in (form for each in words for form in _forms(each)):
            for numbered in (word, *_numbered(word, organ.numbers)):
                yield numbered, plain
                for side, meaning in _sides(organ, spoken):
                    yield f"{side}{numbered}", meaning
                    yield f"{numbered}{side}", meaning
            for side, meaning in _sides(organ, spoken):
                yield from ((key, meaning) for key in _numbered(f"{word}{side}", organ.numbers))


def _sides(organ: Organ, spoken: Sequence[Sides]) -> Iterator[tuple[str, str]]:
    """Give every folded word for a side with what the organ is on it."""
    if not organ.left and not organ.has_sides:
        return
    for each in spoken:
        meant = [(each.left, organ.left or organ.name), (each.right, organ.right or organ.name)]
        if organ.left:
            meant.append((each.both, organ.name))
        for words, meaning in meant:
            yield from ((form, meaning) for word in words for form in _forms(word))


def _numbered(word: str, largest: int) -> Iterator[str]:
    """Give a folded word with each number behind or before it."""
    for number in range(1, largest + 1):
        for told in {f"{number}", f"{number:02}"}:
            yield f"{word}{told}"
            yield f"{told}{word}"


def _forms(word: str) -> set[str]:
    return {_folded(word), _folded(word.casefold().translate(_TRANSCRIBED))}


def _folded(name: str) -> str:
    """Return a name without case, accents and separators; other signs stay."""
    apart = unicodedata.normalize("NFKD", name.casefold().translate(_UNACCENTED))
    plain = "".join(letter for letter in apart if not unicodedata.combining(letter))
    return _SEPARATORS.sub("", plain)
