//! Fuzzing the used maps: any bytes are a disk, and its map must be sane. `cargo xtask fuzz` runs
//! it; `tests/fuzz_corpus.rs` looks at every file of the corpus in the ordinary tests.

pub mod check;
pub mod image;
