"""The review view: pictures of a case in three planes, histograms and figures beside them.

Shows what the computing process left (`node.view_files`) and what `metrics.json` says; computes no
figure of its own. Start with `node.web.review.routes`.
"""
