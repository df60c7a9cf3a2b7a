"""Training: settings and a folder in, a checkpoint folder out. See `run.train`."""
