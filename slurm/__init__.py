"""Where jobs run: this machine or a Slurm cluster. Knows nothing of videos or attention."""
