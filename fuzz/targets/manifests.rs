//! Manifests, signed and forged.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| relay::fuzz::manifest(bytes));
