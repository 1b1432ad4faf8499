"""What the pack is tried with and compared with: small models, other nodes, edits of a textbook."""
