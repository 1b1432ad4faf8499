"""What the pack is compared with: edits as a textbook writes them out, and a count of memory."""
