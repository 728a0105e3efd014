"""The model that is handed back: a Hugging Face folder, checked by loading it again, with its card."""
