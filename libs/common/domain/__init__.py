"""What the product decides, without I/O, clocks or settings."""
