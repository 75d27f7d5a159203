"""Publishes due outbox rows to Kafka."""
