"""Timings: one script for each row of the performance table."""
