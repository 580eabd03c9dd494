# Functions of the scripts that run in the laboratory.

# fill FOLDER FIRST LAST: files of many sizes, none among them, with pieces of /lab/noise.
fill() {
    n=$2
    while [ "$n" -le "$3" ]; do
        dd if=/lab/noise of="$1/file$n" bs=1024 count=$((n * 7919 % 331)) skip=$((n * 104729 % 3000)) 2>/dev/null
        n=$((n + 1))
    done
}

# use FOLDER: fills, deletes every second file, and fills the holes, with folders and files that
# grow in turns.
use() {
    fill "$1" 1 60
    sync
    n=1
    while [ "$n" -le 60 ]; do
        rm "$1/file$n"
        n=$((n + 2))
    done
    sync
    mkdir -p "$1/a/b/c"
    fill "$1/a/b/c" 100 120
    for n in 1 2 3 4 5 6 7 8; do
        cat "$1/file2" >>"$1/first"
        cat "$1/file4" >>"$1/second"
        sync
    done
    dd if=/lab/noise of="$1/large" bs=65536 count=60 2>/dev/null
    fill "$1" 200 215
    sync
}

# told NAME FOLDER: the digests of all files, for the host.
told() {
    echo "== $1"
    (cd "$2" && find . -type f | sort | xargs sha256sum)
    echo "=="
}
