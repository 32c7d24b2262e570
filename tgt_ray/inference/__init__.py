"""Trained students in the hands of users: open, predict, measure on other data, and hand on in other formats."""
