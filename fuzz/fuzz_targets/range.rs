//! See `gannet_fuzz::range`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::range(bytes));
