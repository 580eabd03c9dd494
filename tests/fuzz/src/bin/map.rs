//! libFuzzer's target.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    haulier_fuzz::check::check(bytes);
});
