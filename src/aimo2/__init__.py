"""Make open language models solve olympiad mathematics under an exam clock."""

from importlib.metadata import version

__version__ = version("aimo2")
