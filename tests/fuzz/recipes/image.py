#!/usr/bin/env python3
"""What the recipes do to images beside making filesystems.

patch IMAGE OFFSET HEX       overwrites bytes
blank IMAGE FROM TO          with zeros
ntfs IMAGE                   blanks what no map reads: nearly all of the empty journal, and the table
                             of capital letters
exfat_loop IMAGE, ntfs_holes IMAGE, lvm_tower IMAGE
                             damage that would once have been read for ever
xfs IMAGE                    the same with what its log holds beside records
text IMAGE OLD NEW           replaces a text, which must be there, by one of the same length
seal IMAGE                   makes checksums right again: of LVM's texts, LUKS2's headers, md 1.2
encrypt IMAGE AT KEY INSIDE  lays an image into LUKS as aes-cbc-plain64, except where 4 KiB are zeros
"""
import hashlib
import re
import struct
import sys
import zlib

command, path, *arguments = sys.argv[1:]
with open(path, "r+b") as file:
    image = bytearray(file.read())
    if command == "patch":
        at, new = int(arguments[0], 0), bytes.fromhex(arguments[1])
        image[at : at + len(new)] = new
    elif command == "blank":
        start, end = (int(text, 0) for text in arguments)
        image[start:end] = bytes(end - start)
    elif command == "ntfs":
        ones = 0
        for at in range(0, len(image), 512):
            sector = image[at : at + 512]
            letters = [a | b << 8 for a, b in zip(sector[::2], sector[1::2])]
            if sum(b - a == 1 for a, b in zip(letters, letters[1:])) > 200:
                image[at : at + 512] = bytes(512)
            # Of the journal, what stands at powers of two.
            ones = ones + 1 if sector == b"\xff" * 512 else 0
            if ones > 2 and ones - 1 & ones - 2:
                image[at : at + 512] = bytes(512)
    elif command == "exfat_loop":
        # The table of capital letters: of endless length, in a chain that comes back to its start.
        sector = 1 << image[0x6C]
        table, heap, root = (int.from_bytes(image[at : at + 4], "little") for at in (0x50, 0x58, 0x60))
        clusters = int.from_bytes(image[0x5C:0x60], "little")
        for number in range(200, clusters + 2):
            after = number + 1 if number < clusters + 1 else 200
            struct.pack_into("<I", image, table * sector + number * 4, after)
        entry = heap * sector + (root - 2) * (sector << image[0x6D])
        while image[entry] != 0x82:
            entry += 32
        struct.pack_into("<IQ", image, entry + 0x14, 200, 1 << 62)
    elif command == "ntfs_holes":
        # The table of files and its bitmap: 2^45 clusters that are nowhere, behind those that they have.
        size = int.from_bytes(image[0x0B:0x0D], "little") * image[0x0D]
        for field in (0x30, 0x38):
            record = int.from_bytes(image[field : field + 8], "little") * size
            for kind in (b"\x80\0\0\0", b"\xb0\0\0\0"):
                data = record + int.from_bytes(image[record + 0x14 : record + 0x16], "little")
                while image[data : data + 4] != kind:
                    data += int.from_bytes(image[data + 4 : data + 8], "little")
                length = int.from_bytes(image[data + 4 : data + 8], "little")
                (used,) = struct.unpack_from("<I", image, record + 0x18)
                behind = bytes(image[data + length : record + used])
                runs = data + int.from_bytes(image[data + 0x20 : data + 0x22], "little")
                first = bytes(image[runs : runs + 1 + (image[runs] & 15) + (image[runs] >> 4)])
                assert image[runs + len(first)] == 0
                new = first + b"\x07" + (1 << 45).to_bytes(7, "little") + b"\0"
                image[runs : runs + len(new)] = new
                struct.pack_into("<I", image, data + 4, length + 16)
                image[data + length + 16 : data + length + 16 + len(behind)] = behind
                struct.pack_into("<I", image, record + 0x18, used + 16)
                all_ = int.from_bytes(first[1 : 1 + (first[0] & 15)], "little") + (1 << 45)
                struct.pack_into("<Q", image, data + 0x18, all_ - 1)
                struct.pack_into("<QQQ", image, data + 0x28, all_ * size, all_ * size, all_ * size)
    elif command == "lvm_tower":
        # Each volume is 40 times the one before.
        at, length = struct.unpack_from("<QQ", image, 4096 + 40)
        text = image[4096 + at : 4096 + at + length].decode().rstrip("\0\n")
        start = text.index("logical_volumes {")
        first = re.search(r"linear \{.*?segment_count", text, re.S).group(0).replace("linear", "NAME", 1)
        towers = ""
        for level in range(9):
            count, part = (40, 40 ** (level - 1)) if level else (1, 1)
            towers += first.replace("NAME", f"t{level}").replace("nBase", f"{level}Base") + f" = {count}\n"
            for nth in range(count):
                below = f"t{level - 1}" if level else "pv0"
                towers += f"segment{nth + 1} {{\nstart_extent = {nth * part}\nextent_count = {part}\ntype = \"striped\"\n"
                towers += f'stripe_count = 1\nstripes = [\n"{below}", 0\n]\n}}\n'
            towers += "}\n"
        new = (text[:start] + "logical_volumes {\n" + towers + "}\n}\n" + text[text.index("# Generated") :] + "\n\0").encode()
        struct.pack_into("<QQ", image, 4096 + 40, 512, len(new))
        image[4608 : 4608 + len(new)] = new
    elif command == "xfs":
        # Heads without content that the kernel writes before where it goes on.
        for at in range(0, len(image), 512):
            if image[at : at + 8] == b"\xfe\xed\xba\xbe" + bytes(4):
                image[at : at + 512] = bytes(512)
    elif command == "text":
        old, new = (text.encode() for text in arguments)
        assert old in image and len(old) == len(new), arguments
        image = image.replace(old, new)
    elif command == "seal":
        if image[4100:4104] == b" LVM":

            def crc(piece):
                return zlib.crc32(piece, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF

            at, length = struct.unpack_from("<QQ", image, 4096 + 40)
            struct.pack_into("<I", image, 4096 + 56, crc(image[4096 + at : 4096 + at + length]))
            struct.pack_into("<I", image, 4096, crc(image[4100:4608]))
        elif image[:6] == b"LUKS\xba\xbe":
            for start in (0, 0x4000):
                image[start + 0x1C0 : start + 0x200] = bytes(64)
                image[start + 0x1C0 : start + 0x1E0] = hashlib.sha256(image[start : start + 0x4000]).digest()
        elif image[4096:4100] == b"\xfc\x4e\x2b\xa9":
            (devices,) = struct.unpack_from("<I", image, 4096 + 0xDC)
            struct.pack_into("<I", image, 4096 + 0xD8, 0)
            words = image[4096 : 4096 + 256 + 2 * devices]
            total = sum(int.from_bytes(words[n : n + 4], "little") for n in range(0, len(words), 4))
            struct.pack_into("<I", image, 4096 + 0xD8, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    elif command == "encrypt":
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        start, key = int(arguments[0], 0), open(arguments[1], "rb").read()
        inside = open(arguments[2], "rb").read()
        for block in range(0, len(inside), 4096):
            if not any(inside[block : block + 4096]):
                continue
            for at in range(block, block + 4096, 512):
                iv = (at // 512).to_bytes(16, "little")
                cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
                image[start + at : start + at + 512] = cipher.update(inside[at : at + 512])
    else:
        sys.exit(__doc__)
    file.seek(0)
    file.write(image)
