"""The commands of `hilum` that are more than a call, one module for each group."""
