//! Event streams as slim frames and back, and any bytes as frames.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| relay::fuzz::slim(bytes));
