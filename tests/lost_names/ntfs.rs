//! NTFS, filled by ntfs-3g; where files lie is what ntfscluster says.

use super::*;
use crate::map_support::mount::Mounted;
use crate::map_support::soiled_file;
use tempfile::TempDir;

struct Variant {
    name: &'static str,
    mkntfs: &'static [&'static str],
    cluster: u64,
}

const fn variant(name: &'static str, mkntfs: &'static [&'static str], cluster: u64) -> Variant {
    Variant {
        name,
        mkntfs,
        cluster,
    }
}

const VARIANTS: &[Variant] = &[
    variant("clusters_of_4k", &[], 4096),
    variant("clusters_of_512", &["-c", "512"], 512),
    variant("clusters_of_64k", &["-c", "65536"], 65_536),
    variant("sectors_of_4k", &["-s", "4096", "-c", "16384"], 16_384),
];

struct Fixture {
    dir: TempDir,
    image: PathBuf,
    files: Vec<Placed>,
    cluster: u64,
}

/// What ntfs-3g takes: UTF-8 only, 255 units of UTF-16.
fn names() -> Vec<Vec<u8>> {
    hostile_names()
        .into_iter()
        .filter(|name| name.len() != 255 && std::str::from_utf8(name).is_ok())
        .chain(["ß".repeat(255).into_bytes(), "😀".repeat(127).into_bytes()])
        .collect()
}

fn mount(image: &Path, dir: &Path) -> Mounted {
    Mounted::new(image, &dir.join("mnt"), "streams_interface=windows")
}

impl Fixture {
    fn make(variant: &Variant, more: impl Fn(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        soiled_file(&image, 96 * MIB, 0xEE);
        let mut args = vec!["-F", "-Q", "-q", "-L", "lost"];
        args.extend(variant.mkntfs);
        args.push(arg(&image));
        run("mkntfs", &args);
        let mounted = mount(&image, dir.path());
        let mut noise = Noise(0x1057_1057);
        make_hard_tree(mounted.path(), &mut noise, 300, &names());
        more(mounted.path());
        let files = by_inode(mounted.path(), &files_below(mounted.path()));
        let sized: Vec<(u64, Vec<PathBuf>, u64)> = files
            .into_iter()
            .map(|(inode, names)| {
                let data = fs::metadata(mounted.path().join(&names[0])).unwrap();
                (inode, names, data.len())
            })
            .collect();
        mounted.unmount();
        let files = sized
            .into_iter()
            .map(|(inode, names, size)| Placed {
                inode,
                names,
                size,
                places: streams(&image, inode, variant.cluster).remove(0),
            })
            .collect();
        Self {
            dir,
            image,
            files,
            cluster: variant.cluster,
        }
    }

    /// The record of a file.
    fn inode_of(&self, name: &str) -> u64 {
        let mounted = mount(&self.image, self.dir.path());
        let inode = fs::metadata(mounted.path().join(name)).unwrap().ino();
        mounted.unmount();
        inode
    }
}

/// The runs of each stream of a file, in the order in which ntfscluster shows them; none for a stream
/// that is in the record.
fn streams(image: &Path, inode: u64, cluster: u64) -> Vec<Vec<Place>> {
    attributes(image, inode, "0x80", cluster)
}

fn attributes(image: &Path, inode: u64, kind: &str, cluster: u64) -> Vec<Vec<Place>> {
    let text = run("ntfscluster", &["-I", &inode.to_string(), arg(image)]);
    let mut streams: Vec<Vec<Place>> = Vec::new();
    let mut is_ours = false;
    let mut starts = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [found, "-", how] => {
                is_ours = *found == kind;
                starts = is_ours;
                if is_ours && *how == "resident" {
                    streams.push(Vec::new());
                    starts = false;
                }
            }
            [vcn, lcn, len] if is_ours => {
                let (Ok(vcn), Ok(len)) = (vcn.parse::<u64>(), len.parse::<u64>()) else {
                    continue;
                };
                // Further pieces of a stream do not begin with its first cluster.
                if std::mem::take(&mut starts) && vcn == 0 {
                    streams.push(Vec::new());
                }
                if let Ok(lcn) = lcn.parse::<u64>() {
                    streams.last_mut().unwrap().push(Place {
                        in_file: vcn * cluster,
                        on_disk: lcn * cluster,
                        len: len * cluster,
                    });
                }
            }
            _ => {}
        }
    }
    streams
}

fn names_every_file(name: &str) {
    let variant = VARIANTS
        .iter()
        .find(|variant| variant.name == name)
        .unwrap();
    let fixture = Fixture::make(variant, |_| {});
    let mut noise = Noise(0xBAD_5EC7);
    let picked = expect_names(
        &fixture.image,
        0,
        &fixture.files,
        fixture.cluster,
        &mut noise,
    );
    assert!(picked > 30, "only {picked} files have clusters");
    println!("{name}: {picked} files named");
}

macro_rules! every_variant {
    ($($name:ident)*) => {
        $(#[test] fn $name() { names_every_file(stringify!($name)); })*

        #[test]
        fn no_variant_is_left_out() {
            let tested = [$(stringify!($name)),*];
            assert!(VARIANTS.iter().all(|variant| tested.contains(&variant.name)));
        }
    };
}

every_variant! { clusters_of_4k clusters_of_512 clusters_of_64k sectors_of_4k }

#[test]
fn streams_compressed_files_directories_and_records() {
    let fixture = Fixture::make(&VARIANTS[0], |root| {
        let mut noise = Noise(7);
        fs::write(root.join("first name:side"), noise.bytes(50_000)).unwrap();
        let folder = root.join("small");
        fs::create_dir(&folder).unwrap();
        let attribute = ["-h", "-n", "system.ntfs_attrib", "-v", "0x00080000"];
        run(
            "setfattr",
            &[attribute.as_slice(), &[arg(&folder)]].concat(),
        );
        let text: Vec<u8> = (0..60_000)
            .flat_map(|n: u32| format!("{n} ").into_bytes())
            .collect();
        fs::write(folder.join("text"), text).unwrap();
    });
    let image = &fixture.image;
    let cluster = fixture.cluster;
    let one = |place: Place, nth: u64| run_of(place.on_disk + nth * cluster, cluster);

    // A stream beside the content.
    let side = streams(image, fixture.inode_of("first name"), cluster)[1][0];
    let lost = one(side, 3);
    let losses = losses_of(image, &list([lost]));
    assert!(
        matches!(said_of(&losses, lost)[..], [What::File { path, offset_in_file: 12_288, bytes: 4096, .. }]
            if path.ends_with(" name:side")),
        "{losses:#?}"
    );

    // Sixteen clusters are compressed together: all of them are lost with one.
    let text = &streams(image, fixture.inode_of("small/text"), cluster)[0];
    let second = text.iter().find(|place| place.in_file >= 65_536).unwrap();
    let lost = one(*second, 0);
    let losses = losses_of(image, &list([lost]));
    let unit = second.in_file / 65_536 * 65_536;
    assert!(
        matches!(said_of(&losses, lost)[..], [What::File { path, offset_in_file, bytes: 65_536, .. }]
            if path == "/small/text" && *offset_in_file == unit),
        "{losses:#?}"
    );

    // A directory's index.
    let crowd = fixture.inode_of("crowd");
    let index = attributes(image, crowd, "0xa0", cluster)[0][0];
    let lost = one(index, 0);
    let losses = losses_of(image, &list([lost]));
    assert!(
        matches!(said_of(&losses, lost)[..], [What::Directory { path, inode }]
            if path == "/crowd" && *inode == crowd),
        "{losses:#?}"
    );

    // Records: the names of files whose record is lost are repeated in their directory.
    let table = streams(image, 0, cluster)[0].clone();
    let inode = fixture.inode_of("crowd/one of very many files with a name of some length 233");
    let at = inode * 1024;
    let piece = table
        .iter()
        .find(|place| (place.in_file..place.in_file + place.len).contains(&at))
        .unwrap();
    let lost = run_of(
        piece.on_disk + (at - piece.in_file) / cluster * cluster,
        cluster,
    );
    let losses = losses_of(image, &list([lost]));
    let said = said_of(&losses, lost);
    let [What::Metadata { which, files }] = said[..] else {
        panic!("{said:#?}");
    };
    assert!(which.contains("$MFT"), "{which}");
    let wanted = "/crowd/one of very many files with a name of some length 233";
    assert!(files.iter().any(|file| file == wanted), "{files:#?}");

    // The first records: the table is found by its copy.
    let first = run_of(table[0].on_disk, 4096);
    let place = fixture
        .files
        .iter()
        .find(|file| file.size > 100_000)
        .unwrap();
    let lost = one(place.places[0], 0);
    let losses = losses_of(image, &list([first, lost]));
    expect_file(&losses, lost, place, place.places[0].in_file);
}

#[test]
fn metadata_and_free_clusters() {
    let fixture = Fixture::make(&VARIANTS[0], |_| {});
    let image = &fixture.image;
    let cluster = fixture.cluster;
    let bitmap = streams(image, 6, cluster)[0][0];
    let log = streams(image, 2, cluster)[0][0];
    let used = crate::map_support::map_of(image).extents;
    let whole = list([run_of(0, 96 * MIB)]);
    let free = whole
        .subtract(&used)
        .iter()
        .max_by_key(|run| run.len())
        .unwrap();
    let free = run_of(free.start().0, 3 * cluster);
    let boot = run_of(0, 512);
    let bitmap = run_of(bitmap.on_disk, 512);
    let log = run_of(log.on_disk + cluster, cluster);
    let losses = losses_of(image, &list([bitmap, log, free]));
    for (run, word) in [(bitmap, "$Bitmap"), (log, "$LogFile")] {
        assert!(
            matches!(said_of(&losses, run)[..], [What::Metadata { which, .. }] if which.contains(word)),
            "{losses:#?}"
        );
    }
    // Of the lost piece of the bitmap others could be free or not.
    let losses = losses_of(image, &list([free, log]));
    assert_eq!(said_of(&losses, free), [&What::FreeSpace]);
    // Without its boot sector nobody knows that it is NTFS.
    let losses = losses_of(image, &list([boot, log]));
    assert!(
        matches!(said_of(&losses, log)[..], [What::Unknown { .. }]),
        "{losses:#?}"
    );
}
