//! The one place where checksums are compared: a fuzzer cannot guess them and would never get past
//! the first, so in its build (`--cfg fuzzing`, `cargo xtask fuzz`) any is right.

#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing
)]

/// Whether a checksum is the one that is stored.
pub(crate) fn matches<T: PartialEq>(computed: T, stored: T) -> bool {
    cfg!(fuzzing) || computed == stored
}

/// How often something dear is repeated: as often as `asked`, but for a fuzzer at most `cheap`
/// times, since it wants thousands of tries a second.
pub(crate) fn repetitions<T: Ord>(asked: T, cheap: T) -> T {
    if cfg!(fuzzing) {
        asked.min(cheap)
    } else {
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_the_fuzzer_nothing_is_let_through_and_nothing_is_saved() {
        assert!(matches(7, 7));
        assert!(!matches(7, 8));
        assert_eq!(repetitions(1000, 10), 1000);
    }
}
