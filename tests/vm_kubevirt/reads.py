"""Reads manifests as clusters do and holds each document against the schema of its kind.

A line of standard input is a manifest as a JSON string; the line of standard output for it is a list of its
documents, or a text that says what is wrong. YAML is read by PyYAML, which like kubectl's reader takes
`yes` for true and 0o7 or 1:30 for numbers where they are not quoted.
"""

import json
import os
import sys

import jsonschema
import yaml

with open(os.path.join(os.path.dirname(__file__), "schemas.json")) as file:
    schemas = json.load(file)
validators = {kind: jsonschema.Draft7Validator(schema) for kind, schema in schemas.items()}

for line in sys.stdin:
    try:
        documents = list(yaml.safe_load_all(json.loads(line)))
        for document in documents:
            validators[document["kind"]].validate(document)
        answer = documents
    except (yaml.YAMLError, jsonschema.ValidationError, KeyError, TypeError) as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
