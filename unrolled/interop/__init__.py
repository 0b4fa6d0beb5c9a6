"""Other libraries' operators and networks as ours, and ours as theirs."""

__all__ = []
