#!/usr/bin/env python
"""Print the JSON schema of rules: `python scripts/rules_schema.py > docs/rules.schema.json`."""

import json

from hf_rec.model.rules import rules_schema

if __name__ == "__main__":
    print(json.dumps(rules_schema(), indent=2))
