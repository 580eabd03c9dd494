//! `show FILE...`: what is said of the disks that files of the corpus describe, and how long it took.

fn main() {
    for file in std::env::args().skip(1) {
        let bytes = std::fs::read(&file).expect("the file");
        let start = std::time::Instant::now();
        let maps = haulier_fuzz::check::check(&bytes).unwrap_or_default();
        println!("== {file}: {} ms", start.elapsed().as_millis());
        for map in &maps {
            println!("{}", map.render_text());
        }
    }
}
