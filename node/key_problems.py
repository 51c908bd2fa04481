"""What is wrong with a file of keys, in words: each problem with its key as in the file."""

import difflib
from collections.abc import Collection, Mapping

from pydantic import BaseModel, ValidationError

LEAST_LIKENESS = 0.5
"""How like a known key must be to be proposed."""


def key_problems(
    error: ValidationError,
    whole: type[BaseModel],
    sections: Mapping[str, type[BaseModel]],
    hidden: Collection[str] = (),
) -> list[str]:
    """Return each problem that was found in a file, with its key; entries are counted from 1.

    Args:
        error: What the check of the whole file raised.
        whole: The file.
        sections: Its sections by the key that they stand under.
        hidden: Keys that no file may have, and so are not proposed.
    """
    problems: list[str] = []
    for item in error.errors():
        place = item["loc"]
        key = _key(place)
        if item["type"] == "extra_forbidden":
            names = [part for part in place[:-1] if isinstance(part, str)]
            section = sections.get(names[-1], whole) if names else whole
            known = {field.alias or name for name, field in section.model_fields.items()}
            near = difflib.get_close_matches(str(place[-1]), known - set(hidden), 1, LEAST_LIKENESS)
            problems.append(f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
        elif item["type"] == "missing":
            problems.append(f"{key}: missing")
        else:
            text = item["msg"].removeprefix("Value error, ")
            problems += [f"{key}: {line}" if key else line for line in text.splitlines()]
    return problems


def _key(location: tuple[int | str, ...]) -> str:
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part + 1}]"
        else:
            key += f".{part}" if key else part
    return key
