"""Files: a saved inversion, and a learning run to go on with."""
