"""Ways to call models, one module for each."""
