"""Data sets: the drawn mini set, and what it is drawn with."""
