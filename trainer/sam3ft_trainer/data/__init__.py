"""COCO from a folder to batches: index, checks, order, decode, transforms, pipeline."""
