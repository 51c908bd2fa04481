"""Asking a peer what it holds (C-FIND), and having it sent (C-MOVE, C-GET): SCU only.

`dialog` knows the association and its answers, `find` the questions, `retrieve` the retrievals.
Knows no queue, no database and no case: `node.fetching` decides what is asked and when. Read
PS3.4 Annex C first.
"""
