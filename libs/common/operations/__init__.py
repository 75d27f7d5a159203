"""What several faces do the same way, over ports."""
