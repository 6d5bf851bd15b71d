//! Event streams, through a shape and back.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| relay::fuzz::shape(bytes));
