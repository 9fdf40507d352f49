"""From a log of interactions to tokenized splits and batches."""
