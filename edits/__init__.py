"""A table of edits as a command: its rows, their graphs, and the workers that run them."""
