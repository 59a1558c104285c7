"""Data sets on disk: read, checked, prepared, told apart; `drawn` makes those that are drawn."""
