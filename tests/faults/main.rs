//! The fault matrix of the capture engine: whatever goes wrong, a capture becomes the undisturbed
//! one, or is refused with a sentence, or what is wrong is found and its place named. Each test
//! prints its line; `cargo xtask faults` runs them with the large counts and prints the table.

#[path = "../capture_support/mod.rs"]
mod capture_support;
mod cuts;
mod flips;
mod full;
mod layout;
#[path = "../testbed/tests/powercut/log.rs"]
mod log;
mod medium;
mod pulled;
mod qsd;
mod unreadable;
