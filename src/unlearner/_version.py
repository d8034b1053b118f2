"""The version of the package, apart from it so that anything may import it."""

__version__ = "0.1.0"
