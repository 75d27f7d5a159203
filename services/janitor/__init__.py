"""Retries, rescues, expiry, statistics and repairs."""
