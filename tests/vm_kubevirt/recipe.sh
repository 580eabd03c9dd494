#!/bin/sh
# Makes schemas.json: what KubeVirt's and CDI's published API says of a VirtualMachine and a DataVolume, as
# JSON schema. The npm package @kubevirt-ui-ext/kubevirt-api (Apache-2.0) is generated from both projects'
# OpenAPI documents; ts-json-schema-generator turns its types into a schema that takes no other keys.
# Descriptions and the definitions of what only the cluster writes (status) are left out.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --no-audit --no-fund --silent ts-json-schema-generator@2.10.0 @kubevirt-ui-ext/kubevirt-api@1.7.0
cat > types.ts <<'TYPES'
import type { V1VirtualMachine } from "@kubevirt-ui-ext/kubevirt-api/kubevirt";
import type { V1beta1DataVolume } from "@kubevirt-ui-ext/kubevirt-api/containerized-data-importer";
export type VirtualMachine = Omit<V1VirtualMachine, "status">;
export type DataVolume = Omit<V1beta1DataVolume, "status">;
TYPES
for type in VirtualMachine DataVolume; do
  npx ts-json-schema-generator --path types.ts --type "$type" --no-type-check --no-top-ref -o "$type.json"
done
python3 - VirtualMachine DataVolume > "$here/schemas.json" <<'PYTHON'
import json
import sys


def bare(value):
    if isinstance(value, dict):
        text = isinstance(value.get("description"), str)
        return {k: bare(v) for k, v in value.items() if not (text and k == "description")}
    return [bare(v) for v in value] if isinstance(value, list) else value


schemas = {name: bare(json.load(open(f"{name}.json"))) for name in sys.argv[1:]}
json.dump(schemas, sys.stdout, separators=(",", ":"), sort_keys=True)
print()
PYTHON
