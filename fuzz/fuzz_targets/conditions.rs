//! See `gannet_fuzz::conditions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::conditions(bytes));
