"""Evaluation through lmms-eval: suites.py and tasks/ say what is asked, model.py answers, run.py runs one cell."""
