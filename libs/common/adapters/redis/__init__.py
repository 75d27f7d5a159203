"""Redis: the doorman. Whatever it holds can be rebuilt from PostgreSQL."""
