#!/usr/bin/env python
"""Start of `hf-rec train` from the repository; `--help` lists the options."""

from hf_rec.cli.train import main

if __name__ == "__main__":
    main()
