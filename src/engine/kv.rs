//! How the KV cache is kept: as which numbers, read by which attention, in whose cells.
//!
//! llama.cpp refuses some combinations, and computes others over memory that is not there. So what
//! cannot be is told apart here, in numbers, before a context is made. The rest of the decision,
//! which goes by the machine, is in `llama/open.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the operator says of the cache. The default leaves all to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvConfig {
    pub type_k: KvType,
    pub type_v: KvType,
    pub flash_attention: FlashAttention,
    /// Whether all sequences share one pool of cells. `None`: only where a context for each takes
    /// too much of the memory.
    pub unified: Option<bool>,
}

/// As what keys or values are kept: those that llama-server takes (`--cache-type-k`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvType {
    F32,
    #[default]
    F16,
    Bf16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
    Iq4Nl,
}

/// Whether attention is computed by llama.cpp's flash attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlashAttention {
    /// llama.cpp's choice: on, but for a model that it does not fit.
    #[default]
    Auto,
    On,
    Off,
}

/// Why a cache cannot be as the operator says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvFault {
    #[error(
        "`{setting} = \"{kind}\"` packs {block} numbers at a time, which does not divide this \
         model's heads of {head}; f32, f16 and bf16 fit any"
    )]
    Blocks {
        setting: &'static str,
        kind: KvType,
        block: u32,
        head: u32,
    },
    #[error(
        "`kv_type_v = \"{0}\"` needs flash attention, and `flash_attention = \"off\"` forbids it"
    )]
    ValuesNeedFlash(KvType),
    #[error(
        "`kv_unified = false` takes {needed} tokens, {context} for each of {sequences} sequences, \
         and `kv_tokens_max` allows {allowed}"
    )]
    TooManyTokens {
        needed: u64,
        context: u32,
        sequences: u32,
        allowed: u32,
    },
    #[error(
        "`kv_unified = false` takes {needed_bytes} bytes, a context of {context} tokens for each of \
         {sequences} sequences, and {free_bytes} are free"
    )]
    TooManyBytes {
        needed_bytes: u64,
        context: u32,
        sequences: u32,
        free_bytes: u64,
    },
}

impl KvType {
    /// Numbers that are packed together: (how many, into how many bytes), as in ggml-common.h.
    const fn block(self) -> (u32, u32) {
        match self {
            KvType::F32 => (1, 4),
            KvType::F16 | KvType::Bf16 => (1, 2),
            KvType::Q8_0 => (32, 34),
            KvType::Q5_1 => (32, 24),
            KvType::Q5_0 => (32, 22),
            KvType::Q4_1 => (32, 20),
            KvType::Q4_0 | KvType::Iq4Nl => (32, 18),
        }
    }

    #[must_use]
    pub const fn is_quantised(self) -> bool {
        self.block().0 > 1
    }

    /// Bytes that so many numbers take.
    pub(crate) fn bytes(self, numbers: u64) -> u64 {
        let (count, bytes) = self.block();
        numbers
            .div_ceil(u64::from(count))
            .saturating_mul(u64::from(bytes))
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Bf16 => "bf16",
            KvType::Q8_0 => "q8_0",
            KvType::Q5_1 => "q5_1",
            KvType::Q5_0 => "q5_0",
            KvType::Q4_1 => "q4_1",
            KvType::Q4_0 => "q4_0",
            KvType::Iq4Nl => "iq4_nl",
        })
    }
}

impl KvConfig {
    /// What can be told without the model.
    ///
    /// # Errors
    /// No model could be run so.
    pub fn check(&self) -> Result<(), KvFault> {
        if self.type_v.is_quantised() && self.flash_attention == FlashAttention::Off {
            return Err(KvFault::ValuesNeedFlash(self.type_v));
        }
        Ok(())
    }

    /// The rest, for a model whose heads have keys and values of so many numbers. llama.cpp looks
    /// at this itself, but only where flash attention is not off.
    pub(crate) fn check_heads(&self, keys: &[u32], values: &[u32]) -> Result<(), KvFault> {
        self.check()?;
        let parts = [
            ("kv_type_k", self.type_k, keys),
            ("kv_type_v", self.type_v, values),
        ];
        for (setting, kind, heads) in parts {
            let block = kind.block().0;
            if let Some(head) = heads.iter().find(|head| !head.is_multiple_of(block)) {
                return Err(KvFault::Blocks {
                    setting,
                    kind,
                    block,
                    head: *head,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_must_divide_the_heads() {
        let kv = |type_k, type_v| KvConfig {
            type_k,
            type_v,
            ..KvConfig::default()
        };
        assert_eq!(
            kv(KvType::Q8_0, KvType::Q4_0).check_heads(&[64], &[128]),
            Ok(())
        );
        assert_eq!(
            kv(KvType::Bf16, KvType::F32).check_heads(&[80, 7], &[1]),
            Ok(())
        );
        let fault = kv(KvType::Q8_0, KvType::F16).check_heads(&[64, 80], &[80]);
        assert_eq!(
            fault.unwrap_err().to_string(),
            "`kv_type_k = \"q8_0\"` packs 32 numbers at a time, which does not divide this model's \
             heads of 80; f32, f16 and bf16 fit any"
        );
        let fault = kv(KvType::F16, KvType::Iq4Nl).check_heads(&[80], &[48]);
        assert!(fault.unwrap_err().to_string().contains("kv_type_v"));
    }

    #[test]
    fn packed_values_are_read_by_flash_attention_alone() {
        let mut kv = KvConfig {
            type_v: KvType::Q8_0,
            flash_attention: FlashAttention::On,
            ..KvConfig::default()
        };
        assert_eq!(kv.check(), Ok(()));
        kv.flash_attention = FlashAttention::Off;
        assert_eq!(kv.check(), Err(KvFault::ValuesNeedFlash(KvType::Q8_0)));
    }

    #[test]
    fn a_packed_cache_is_counted_as_small_as_it_is() {
        assert_eq!(KvType::F16.bytes(128), 256);
        assert_eq!(KvType::Q8_0.bytes(128), 136);
        assert_eq!(KvType::Q4_0.bytes(128), 72);
    }
}
