#!/usr/bin/env python
"""Start of `hf-rec demo` from the repository; `--help` lists the options."""

from hf_rec.cli.demo import main

if __name__ == "__main__":
    main()
