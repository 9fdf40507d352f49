"""The command `hf-rec` and its parts."""
