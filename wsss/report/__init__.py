"""Records, their statistics, and every table and figure made of them. No torch."""
