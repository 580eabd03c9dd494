//! `squeeze IMAGE FILE [SECTOR]`: makes a file of the corpus from a disk image.

use haulier::units::SectorSize;
use haulier_fuzz::image::SparseDisk;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, file, sector @ ..] = arguments.as_slice() else {
        panic!("usage: squeeze IMAGE FILE [SECTOR]");
    };
    let sector = sector
        .first()
        .map_or(512, |text| text.parse().expect("a number"));
    let sector = SectorSize::new(sector).expect("512 or 4096");
    let image = std::fs::read(image).expect("the image");
    std::fs::write(file, SparseDisk::squeeze(&image, sector)).expect("the file");
}
