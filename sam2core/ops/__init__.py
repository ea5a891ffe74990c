"""Small pure functions and torch operators, each tested against a reference."""
