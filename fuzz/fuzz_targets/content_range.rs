//! See `gannet_fuzz::client_content_range`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::client_content_range(bytes));
