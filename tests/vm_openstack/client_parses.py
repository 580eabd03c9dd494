"""Parses command lines of the client `openstack` with the client's own parsers, without a cloud.

Standard input: a JSON list of argument lists. Standard output: a list of what each means.
"""

import importlib.metadata
import json
import sys
from types import SimpleNamespace

GROUPS = [
    "openstack.compute.v2",
    "openstack.image.v2",
    "openstack.network.v2",
    "openstack.volume.v3",
]
commands = {}
for group in GROUPS:
    for entry in importlib.metadata.entry_points(group=group):
        commands[entry.name.replace("_", " ")] = entry

# The network commands ask which kind of network the cloud has while they make their parsers.
network = SimpleNamespace(is_network_endpoint_enabled=lambda: True)
app = SimpleNamespace(
    client_manager=network,
    command_manager=SimpleNamespace(namespace="openstack.none"),
    options=None,
    NAME="openstack",
)
meanings = []
for words in json.load(sys.stdin):
    name = " ".join(words[:2])
    command = commands[name].load()(app, SimpleNamespace(app_name="openstack"), name)
    parsed = command.get_parser(name).parse_args(words[2:])
    meanings.append({"command": name} | {k: v for k, v in vars(parsed).items() if v})
json.dump(meanings, sys.stdout, default=str)
