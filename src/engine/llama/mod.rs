//! llama.cpp as a [`crate::decoder::Decoder`] and a [`crate::decoder::Vocabulary`].
//!
//! `raw` alone holds `unsafe`; the files beside it use it and the safe crate `llama-cpp-2`.

mod decoder;
mod devices;
mod embedder;
mod eye;
mod filling;
mod fingerprint;
mod open;
#[expect(
    unsafe_code,
    reason = "the one file over llama.cpp's raw handles; it exports safe items only"
)]
mod raw;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use devices::devices;
