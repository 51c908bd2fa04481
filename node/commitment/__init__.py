"""Storage commitment as SCU: asks a peer to keep what it was sent, and acts on what it reports.

`asking` speaks (N-ACTION), `reports` listens (N-EVENT-REPORT), `verdicts` says what a failure
reason means, `committing` is the step of a delivery that brings them together. What must not be
forgotten is in `node.index.commitments`. Read PS3.4 Annex J first.
"""
