"""Plumbing: command lines, errors, files, processes, a run's log. Imports nothing of the other folders."""
