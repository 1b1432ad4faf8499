"""The paper in plain torch: schedule, inversion, learning, Prompt-to-Prompt."""
