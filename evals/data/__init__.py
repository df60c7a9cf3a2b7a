"""What the benchmarks ask about: synthetic.py makes ours from a seed, prepare.py gets the paper's ready.

python -m evals.data prepare SUITE...
"""
