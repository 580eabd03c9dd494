"""Reads image-N.json files as Nova reads an image: prints what it understood of each, as JSON.

Nova passes over properties that it does not know, so every one is also looked up in its list.
"""

import json
import sys

from nova.objects import image_meta

# What Glance itself knows of an image; all else of the document are properties.
GLANCE = {"name", "disk_format", "container_format", "min_disk", "min_ram"}

understood = []
for path in sys.argv[1:]:
    with open(path) as file:
        document = json.load(file)
    image = {key: value for key, value in document.items() if key in GLANCE}
    image["properties"] = {k: v for k, v in document.items() if k not in GLANCE}
    meta = image_meta.ImageMeta.from_dict(image)
    seen = {"name": meta.name, "min_disk": meta.min_disk, "min_ram": meta.min_ram}
    for key in image["properties"]:
        if key not in image_meta.ImageMetaProps.fields:
            sys.exit(f"{path}: Nova knows no property {key}")
        if not meta.properties.obj_attr_is_set(key):
            sys.exit(f"{path}: Nova did not take {key}")
        seen[key] = str(getattr(meta.properties, key))
    understood.append(seen)
json.dump(understood, sys.stdout)
