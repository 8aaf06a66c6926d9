"""The storage formats."""
