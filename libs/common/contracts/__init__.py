"""What travels between processes and to outsiders, versioned."""
