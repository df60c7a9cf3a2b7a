"""What the benchmarks ask about: ours, made here from a seed (synthetic.py); the paper's, fetched or found (prepare.py).

    python -m evals.data prepare SUITE...
"""

from evals.data.synthetic import SyntheticData, data_folder, make_data, read_docs, video_rate, write_video

__all__ = ["SyntheticData", "data_folder", "make_data", "read_docs", "video_rate", "write_video"]
