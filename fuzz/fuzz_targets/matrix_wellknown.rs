//! See `gannet_fuzz::matrix_wellknown`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::matrix_wellknown(bytes));
