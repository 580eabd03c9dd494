# Functions of the scripts that run in the laboratory.

# fill FOLDER FIRST LAST: files of many sizes, none among them, with pieces of /lab/noise.
fill() {
    n=$2
    while [ "$n" -le "$3" ]; do
        dd if=/lab/noise of="$1/file$n" bs=1024 count=$((n * 7919 % 661)) skip=$((n * 104729 % 3000)) 2>/dev/null
        n=$((n + 1))
    done
}

# use FOLDER: fills, deletes every second file, and fills the holes, with folders and files that
# grow in turns.
use() {
    fill "$1" 10 39
    sync
    rm "$1"/file?[13579]
    sync
    mkdir -p "$1/a/b/c"
    fill "$1/a/b/c" 40 47
    for n in 1 2 3 4; do
        cat "$1/file12" >>"$1/first"
        cat "$1/file14" >>"$1/second"
        sync
    done
    dd if=/lab/noise of="$1/large" bs=65536 count=60 2>/dev/null
    fill "$1" 50 55
}

# told NAME FOLDER: the digests of all files, for the host.
told() {
    echo "== $1"
    (cd "$2" && find . -type f | sort | xargs sha256sum)
    echo "=="
}
