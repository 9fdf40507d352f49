"""Model cards, saved folders, and pushing them to the Hugging Face Hub."""
