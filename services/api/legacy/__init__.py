"""The old gateway's routes: their names, their envelope, their rows."""
