"""The pictures of the README, the templates and the help pages, printed anew by dev.py pictures."""
