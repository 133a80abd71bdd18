//! See `gannet_fuzz::listing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::listing(bytes));
