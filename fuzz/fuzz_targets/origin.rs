//! See `gannet_fuzz::origin`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::origin(bytes));
