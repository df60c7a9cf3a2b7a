"""What the benchmarks ask about: synthetic.py makes ours from a seed, prepare.py gets the paper's ready.

python -m evals.data prepare SUITE...
"""

from evals.data.synthetic import SyntheticData, data_folder, make_data, read_docs, video_rate, write_video

__all__ = ["SyntheticData", "data_folder", "make_data", "read_docs", "video_rate", "write_video"]
