"""From words to a control, and from a control to pictures."""
