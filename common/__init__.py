"""Plumbing: command lines, errors, files, processes, a run's log. Imports no other folder."""
