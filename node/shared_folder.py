"""Refuses to work beside the shared data folder: where the mount is missing lies an empty one."""

from contextlib import ExitStack
from pathlib import Path

from node.config import NodeSection
from node.errors import NodeError
from node.index import Index
from node.index.instances import InstanceBook
from node.process_name import HeldName
from node.storage import ObjectStore


def open_index(node: NodeSection, held: HeldName) -> Index:
    """Return the index, brought up to date, for the process that holds a name.

    Raises:
        NodeError: The database or the folder cannot be used; the name is free again.
    """
    with ExitStack() as undo:
        undo.callback(held.release)
        index = Index(node.database_url)
        undo.callback(index.close)
        index.create()
        if node.is_shared:
            require_folder(node.data, index)
        undo.pop_all()
    return index


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
