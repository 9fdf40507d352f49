#!/usr/bin/env python
"""Start of `hf-rec evaluate` from the repository; `--help` lists the options."""

from hf_rec.cli.evaluate import main

if __name__ == "__main__":
    main()
