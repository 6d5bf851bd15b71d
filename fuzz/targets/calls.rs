//! Replies of models, read for thoughts and tool calls.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::fuzz::calls(bytes));
