"""What the janitor does again and again: one duty a module, each safe to run twice and on several janitors."""
