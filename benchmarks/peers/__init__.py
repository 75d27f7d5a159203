"""The same HTTP call through other task queues."""
