"""The DICOM conformance statement, printed from the tables that run, in the order of PS3.2.

Imports what runs, so that nothing can be told that is not done; nothing that runs imports it.
`objects` is the annex on what our own objects hold. Opens no socket.
"""

from node.config import Config
from node.statement.annexes import annexes
from node.statement.asked import activities_as_scp
from node.statement.asking import activities_as_scu
from node.statement.networking import application_entity, association_policies, interfaces
from node.statement.overview import introduction, overview
from node.statement.surroundings import character_sets, configuration, media, security

__all__ = ["conformance_statement"]


def conformance_statement(config: Config) -> str:
    """Return the DICOM conformance statement in Markdown, for a configuration."""
    sections = (
        overview(config),
        introduction(),
        application_entity(config),
        association_policies(config),
        activities_as_scp(config),
        activities_as_scu(config),
        interfaces(config),
        configuration(config),
        media(),
        character_sets(),
        security(config),
        annexes(),
    )
    return "\n\n".join(sections) + "\n"
