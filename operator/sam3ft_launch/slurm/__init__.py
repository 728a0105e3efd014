"""The SLURM backend: a run folder that login node and compute nodes share, and one readable batch script."""
