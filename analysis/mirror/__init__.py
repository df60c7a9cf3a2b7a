"""What W&B shows of an out folder: a run a cell, and of each sweep a run with its tables and figures, and a report.

Everything comes from what is on disk, under names that stay: made again, it takes the place of what was there.
"""
