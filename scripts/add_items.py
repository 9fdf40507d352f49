#!/usr/bin/env python
"""Start of `hf-rec add-items` from the repository; `--help` lists the options."""

from hf_rec.cli.add_items import main

if __name__ == "__main__":
    main()
