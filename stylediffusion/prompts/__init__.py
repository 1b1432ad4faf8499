"""What people type: words, lists and windows, and how they are quoted."""
