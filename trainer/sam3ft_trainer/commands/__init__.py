"""What `python -m sam3ft_trainer VERB` can do; one file per verb. The command line `sam3ft` starts these."""
