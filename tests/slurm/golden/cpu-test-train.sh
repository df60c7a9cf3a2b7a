#!/bin/bash

# Parameters
#SBATCH --comment=tiny-budget
#SBATCH --cpus-per-task=1
#SBATCH --error=/tmp/shared/runs/jobs/%j_0_log.err
#SBATCH --job-name=tiny-budget
#SBATCH --mem=2048MB
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/tmp/shared/runs/jobs/%j_0_log.out
#SBATCH --partition=debug
#SBATCH --requeue
#SBATCH --signal=USR2@450
#SBATCH --time=30
#SBATCH --wckey=submitit

# setup
timeout 60 sh -c 'until [ -d /shared/code ]; do sleep 1; done' || exit 66
export PYTHONPATH=/shared/code
export PYTHONSAFEPATH=1
export PYTHONUTF8=1
export PYTHONIOENCODING=utf-8:backslashreplace
export PYTHONWARNINGS=''
export PYTHONOPTIMIZE=''
export TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=1
export MKL_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export NUMEXPR_NUM_THREADS=1
export SRUN_CPUS_PER_TASK=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /tmp/shared/runs/jobs/%j_%t_log.out --error /tmp/shared/runs/jobs/%j_%t_log.err --open-mode=append --kill-on-bad-exit=1 PYTHON -u -m submitit.core._submit /tmp/shared/runs/jobs

