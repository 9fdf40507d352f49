#!/usr/bin/env python
"""Start of `hf-rec recommend` from the repository; `--help` lists the options."""

from hf_rec.cli.recommend import main

if __name__ == "__main__":
    main()
