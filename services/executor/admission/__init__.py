"""Who may start now, and who waits for what."""
