"""Measure tokens a second of a served model, and of everything that this project puts around it.

`python -m aimo2.benchmark` and `aimo2 benchmark` are the same command.
"""
