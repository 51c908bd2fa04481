"""Where we are asked: what peers may find among our results and fetch, and what we commit to.

`keys` is the table of what can be asked for, `identifier` reads a request against it, `matching` is
how values match (all three pure). `find` and `retrieve` serve C-FIND, C-MOVE and C-GET over the
results that `catalogue` reads, `commitment` serves N-ACTION of Storage Commitment and `reports`
sends what is owed for it. Read PS3.4 Annexes C and J first.
"""
