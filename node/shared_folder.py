"""Refuses to work beside the shared data folder: where the mount is missing lies an empty one."""

from pathlib import Path

from node.errors import NodeError
from node.index import Index
from node.index.instances import InstanceBook
from node.storage import ObjectStore


def require_folder(data: Path, index: Index) -> None:
    """Do nothing if the folder can be the one whose objects the index knows.

    Raises:
        NodeError: The index knows objects, and there is no folder of objects.
    """
    if not (data / ObjectStore.OBJECTS).is_dir() and InstanceBook(index).has_any():
        raise NodeError(
            f"the index knows objects, and {data} holds none",
            hint="mount the shared folder there, or correct node.data",
        )
