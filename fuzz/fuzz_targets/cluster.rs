//! See `gannet_fuzz::cluster`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::cluster(bytes));
