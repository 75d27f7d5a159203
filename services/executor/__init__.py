"""Runs tasks: reads the road, calls models, stores results."""
