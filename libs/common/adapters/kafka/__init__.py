"""Kafka by aiokafka: how clients connect, the producing side, topics."""
