"""The audit trail: who did what to whose objects, as PS3.15 A.5 has it told.

Keeps and sends; decides nothing and hinders nobody. Start with `node.audit.events`.
"""
