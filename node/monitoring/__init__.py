"""What the node tells a supervisor: counts, measures, whether it lives, whether it takes objects.

Only here is prometheus_client imported. Start with `node.monitoring.collector`.
"""
