"""What the pack is compared with: edits as a textbook writes them out, and the bytes they keep."""
