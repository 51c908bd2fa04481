"""Tables of IODs, modules and their attributes, as highdicom (MIT) makes them of PS3.3.

Only the tables are read, not the library: importing that takes more time than to judge a case.
"""

import json
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, cast


@lru_cache(maxsize=1)
def iod_of_sop_class() -> dict[str, str]:
    """Return the key of the IOD by SOP Class UID."""
    return cast("dict[str, str]", _table("sop_class_iod_map"))


@lru_cache(maxsize=1)
def modules_of_iod() -> dict[str, list[dict[str, str]]]:
    """Return `key` and `usage` (`M`, `C`, `U`) of each module, by IOD."""
    return cast("dict[str, list[dict[str, str]]]", _table("iod_module_map"))


@lru_cache(maxsize=1)
def attributes_of_module() -> dict[str, list[dict[str, Any]]]:
    """Return `keyword`, `type` and `path` (keywords of the sequences around), by module."""
    return cast("dict[str, list[dict[str, Any]]]", _table("module_attribute_map"))


def _table(name: str) -> Any:
    spec = find_spec("highdicom")
    if spec is None or spec.loader is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("highdicom is not installed", name="highdicom")
    path = f"{spec.submodule_search_locations[0]}/_standard/{name}.json"
    return json.loads(spec.loader.get_data(path))  # type: ignore[attr-defined]
