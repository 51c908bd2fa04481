"""The page: what the node does, for people, and the same as an API for programs.

Shows and asks; decides nothing of its own. Served by the node's process, read from the index and
the result folders. Start with `node.web.app`.
"""
