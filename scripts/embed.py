#!/usr/bin/env python
"""Start of `hf-rec embed` from the repository; `--help` lists the options."""

from hf_rec.cli.embed import main

if __name__ == "__main__":
    main()
