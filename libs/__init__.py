"""Libraries that the processes share."""
