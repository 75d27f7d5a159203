"""What implements the ports: one package or module for each technology."""
