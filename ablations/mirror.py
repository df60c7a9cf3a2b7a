"""The W&B run of a cell, as a sweep makes it when the cell ends: the same that a report makes of a cell without one."""

from analysis.mirror.cell import mirror as mirror
