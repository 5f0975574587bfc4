"""Measurements: each a command that writes a table to bench/results/ with the machine it ran on."""
