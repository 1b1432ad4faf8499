"""How the demo model and its judge are trained and measured; not part of the pack."""
