//! The project's own commands: `cargo xtask demo`, `test`, `image`.
fn main() {}
