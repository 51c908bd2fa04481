"""Tells people that something needs them, by mail or webhook: off until it is configured.

What is to be told is kept in the index until it was told; no message names a patient. Start with
`node.notify.notifier`.
"""
