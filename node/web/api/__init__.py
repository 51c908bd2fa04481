"""What is shown and can be asked for: documents, the functions that make them, their addresses.

The pages show the same documents. Nothing in here makes HTML.
"""
