"""From a trajectory to an embedding."""
