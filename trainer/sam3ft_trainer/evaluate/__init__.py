"""Post-processing, COCO and cgF1 metrics, the report."""
