"""The REST face: tasks and models in, answers out."""
