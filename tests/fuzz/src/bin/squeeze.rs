//! `squeeze SECTOR FILE IMAGE...`: makes a file of the corpus from the images of one disk or several.

use haulier::units::SectorSize;
use haulier_fuzz::image::SparseDisk;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [sector, file, images @ ..] = arguments.as_slice() else {
        panic!("usage: squeeze SECTOR FILE IMAGE...");
    };
    let sector = SectorSize::new(sector.parse().expect("a number")).expect("512 or 4096");
    let read = |image| std::fs::read(image).expect("the image");
    let images: Vec<Vec<u8>> = images.iter().map(read).collect();
    std::fs::write(file, SparseDisk::squeeze(&images, sector)).expect("the file");
}
