"""SAM 3 composed for training from the submodules of transformers: build, load, freeze, checkpoint, count."""
