"""The agent of a SLURM site: a program on its login node that runs what a cluster's resources ask for."""
