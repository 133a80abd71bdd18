//! See `gannet_fuzz::units`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::units(bytes));
