"""Where results are kept for good: object stores by URL, and the HTTP file service."""
