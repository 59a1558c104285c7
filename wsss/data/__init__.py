"""Data sets on disk: read, check, prepare and tell them apart; `drawn` makes the drawn ones."""
