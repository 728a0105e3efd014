"""The command `sam3ft`: one file per verb; no verb imports torch or the trainer, they start processes."""
