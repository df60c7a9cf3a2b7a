"""Ways to spend attention: one file each, one entry each in settings.py, one contract (contract.py) for all.

Planning reads entries.py, settings.py and registry.py, which import no torch; what runs is imported when it runs.
"""
