"""Sweeps: a grid of settings becomes cells, a plan, jobs, and one record a cell."""
