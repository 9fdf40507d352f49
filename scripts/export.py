#!/usr/bin/env python
"""Start of `hf-rec export` from the repository; `--help` lists the options."""

from hf_rec.cli.export import main

if __name__ == "__main__":
    main()
