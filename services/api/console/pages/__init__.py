"""The console's pages, one noun a module."""
