"""Servers from wheels and Maven artifacts, for `sluiceway up`, the demo and the tests."""
