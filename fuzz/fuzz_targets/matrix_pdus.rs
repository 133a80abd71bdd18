//! See `gannet_fuzz::matrix_pdus`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gannet_fuzz::matrix_pdus(bytes));
