#!/bin/bash

# Parameters
#SBATCH --comment=tiny-budget
#SBATCH --cpus-per-task=12
#SBATCH --error=/tmp/shared/runs/jobs/%j_0_log.err
#SBATCH --gpus-per-node=8
#SBATCH --job-name=tiny-budget
#SBATCH --mem=983040MB
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/tmp/shared/runs/jobs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@600
#SBATCH --time=1440
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
export OMP_NUM_THREADS=12
export MKL_NUM_THREADS=12
export OPENBLAS_NUM_THREADS=12
export NUMEXPR_NUM_THREADS=12
export SRUN_CPUS_PER_TASK=12
export HF_HUB_OFFLINE=1
export NCCL_DEBUG=WARN

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /tmp/shared/runs/jobs/%j_%t_log.out --error /tmp/shared/runs/jobs/%j_%t_log.err --open-mode=append --kill-on-bad-exit=1 PYTHON -u -m submitit.core._submit /tmp/shared/runs/jobs

