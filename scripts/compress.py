#!/usr/bin/env python
"""Start of `hf-rec compress` from the repository; `--help` lists the options."""

from hf_rec.cli.compress import main

if __name__ == "__main__":
    main()
