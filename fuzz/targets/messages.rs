//! Messages of binary HTTP, and lists of keys.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| relay::fuzz::message(bytes));
