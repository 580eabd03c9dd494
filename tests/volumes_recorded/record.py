#!/usr/bin/env python3
"""Reduces the images that make.sh made in a machine with Linux's own md and device-mapper to what
lies where: a run of blocks that hold the pattern of a volume, parity, or bytes as they are."""
import array, json, os, sys
B = 4096; MASK = (1 << 48) - 1; ZERO = bytes(B)
def classify(block):
    if block == ZERO: return None
    w = int.from_bytes(block[:8], 'little'); tag = w >> 48; o = ((w & MASK) - 1) * 8
    if tag and o >= 0 and o % B == 0:
        first = w
        if block == array.array('Q', range(first, first + B // 8)).tobytes(): return ('p', tag, o)
    return ('b',)
def scan(path):
    size = os.path.getsize(path); out = []
    with open(path, 'rb') as f:
        off = 0
        while off < size:
            block = f.read(B)
            if len(block) < B: break
            c = classify(block)
            if c and c[0] == 'p':
                l = out[-1] if out else None
                if l and l[2] == 'p' and l[3] == c[1] and l[0] + l[1] == off and l[4] + l[1] == c[2]: l[1] += B
                else: out.append([off, B, 'p', c[1], c[2]])
            elif c: out.append([off, B, 'b', block])
            off += B
    return size, out
def finish(runs):
    res = []
    for r in runs:
        l = res[-1] if res else None
        if r[2] in 'xu' and l and l[2] == r[2] and l[0] + l[1] == r[0]: l[1] += r[1]
        elif r[2] == 'b':
            t = r[3].rstrip(b'\0') if isinstance(r[3], bytes) else r[3]
            if t == b'\xff' * len(t): res.append([r[0], len(t), 'f'])
            else: res.append([r[0], len(t), 'b', t.hex()])
        else: res.append(r)
    return res
def members(base):
    return [os.path.join(base, f'm{i}') for i in range(8) if os.path.exists(os.path.join(base, f'm{i}'))]
sets = []
def md(base, name, tag, size):
    paths = members(base); got = [scan(p) for p in paths]
    files = [open(p, 'rb') for p in paths]
    allp = [r for _, rs in got for r in rs if r[2] == 'p']
    lo = min((r[0] for r in allp), default=0); hi = max((r[0] + r[1] for r in allp), default=0)
    other = [{r[0] for r in rs if r[2] == 'b'} for _, rs in got]
    for i, (msize, runs) in enumerate(got):
        for r in runs:
            if r[2] == 'b' and lo <= r[0] < hi and name[:5] in ('raid4', 'raid5', 'raid6'):
                x = 0
                for j, f in enumerate(files):
                    if r[0] not in other[j]: f.seek(r[0]); x ^= int.from_bytes(f.read(B), 'little')
                mine = int.from_bytes(r[3], 'little')
                r[2] = 'x' if x == mine else 'u'
    sets.append({'name': name, 'kind': 'md', 'members': [{'size': s, 'runs': finish(r)} for s, r in got],
                 'volumes': [{'name': '', 'size': size, 'tag': tag}]})
def lvm(base, name):
    got = []
    for p in members(base):
        s, runs = scan(p)
        for r in runs:
            if r[2] == 'b' and name == 'raids' and r[0] >= 1 << 20 and r[3][:4] not in (b'DmRd', b'bitm'): r[2] = 'u'
            if r[2] == 'b' and name == 'cache' and r[0] >= 1 << 20: r[2] = 'u'
        got.append({'size': s, 'runs': finish(runs)})
    vols = []
    for line in open(os.path.join(base, 'tags')):
        f = line.split()
        if len(f) == 3: vols.append({'name': f'{name}/{f[0]}', 'size': int(f[2]), 'tag': int(f[1])})
    for n in sorted(os.listdir(base)):
        if n.startswith('content-'):
            s, runs = scan(os.path.join(base, n))
            vols = [v for v in vols if v['name'] != f'{name}/{n[8:]}']
            vols.append({'name': f'{name}/{n[8:]}', 'size': s, 'runs': finish(runs)})
    sets.append({'name': name, 'kind': 'lvm', 'members': got, 'volumes': vols})
mdroot, lvmroot, out = sys.argv[1:]
skip = ('raid10_n3_3', 'raid10_o3_3', 'raid10_f3_3', 'raid5_ddf-N-continue', 'raid5_ddf-N-restart', 'raid5_ddf-zero-restart', 'raid1_live_090', 'raid6_building', 'raid1_building', 'raid5_1.0', 'raid5_1.1', 'raid10_n2_4', 'raid10_f2_4', 'raid10_o2_4', 'raid10_n3_4', 'raid10_f3_4', 'raid10_o3_4')
import re
for n in sorted(os.listdir(mdroot)):
    b = os.path.join(mdroot, n)
    if n in skip or not os.path.exists(os.path.join(b, 'tag')): continue
    tag = int(open(os.path.join(b, 'tag')).read()); size = int(open(os.path.join(b, 'size')).read())
    live = os.path.join(b, 'live')
    md(live if os.path.exists(live) else b, n, tag, size)
for n in sorted(os.listdir(lvmroot)): lvm(os.path.join(lvmroot, n), n)
json.dump({'sets': sets}, open(out, 'w'), separators=(',', ':'))
for s in sets: print(s['name'], sum(len(m['runs']) for m in s['members']), len(json.dumps(s)))
