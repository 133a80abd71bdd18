//! See `gannet_fuzz::auth`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::auth(bytes));
