#!/usr/bin/env python3
"""recorded.py SET FOLDER [INSIDE]: the members of a recorded set (tests/volumes_recorded) as images
FOLDER/0, FOLDER/1 ... with what Linux wrote of its own, without what was in their volumes, and of the
texts of LVM only the committed one. INSIDE is an image that is laid into each member where an array of
version 1 has its data: right for a mirror."""
import json
import os
import struct
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
packed = os.path.join(here, "../../volumes_recorded/images.json.zst")
sets = json.loads(subprocess.check_output(["zstd", "-dc", packed]))["sets"]
which = next(one for one in sets if one["name"] == sys.argv[1])
folder = sys.argv[2]
os.makedirs(folder, exist_ok=True)
size = max(member["size"] for member in which["members"])
for number, member in enumerate(which["members"]):
    assert member["size"] == size, "the disks of the corpus are all of one size"
    image = bytearray(size)
    ones = None
    for start, length, what, *more in member["runs"]:
        if what == "b":
            image[start : start + length] = bytes.fromhex(more[0])
        elif what == "f":
            # The log of a mirror, all of it in sync: of blocks that follow each other the first will do.
            if image[start - 4096 : start] != b"\xff" * 4096 and start != ones:
                image[start : start + length] = b"\xff" * length
            ones = start + length
    if image[4100:4104] == b" LVM":
        (area,) = struct.unpack_from("<Q", image, 4096 + 32)
        at, length = struct.unpack_from("<QQ", image, 4096 + 40)
        if at + length <= area:
            text = image[4096 + at : 4096 + at + length]
            image[4608 : 4096 + area] = bytes(area - 512)
            image[4096 + at : 4096 + at + length] = text
    if len(sys.argv) > 3:
        inside = open(sys.argv[3], "rb").read()
        (sectors,) = struct.unpack_from("<Q", image, 4096 + 0x80)
        image[sectors * 512 : sectors * 512 + len(inside)] = inside
    with open(f"{folder}/{number}", "wb") as out:
        out.write(image)
