//! Chunks of sealed messages, however they are cut.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| relay::fuzz::chunks(bytes));
