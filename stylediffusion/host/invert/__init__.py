"""From a picture, or a seed, to a trajectory."""
