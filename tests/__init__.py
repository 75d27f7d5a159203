"""Tests, by how much of the world they need: unit, contract, integration, acceptance; architecture."""
