//! How the local model's cache is kept, as written; [`super::raw`] has the rest.

use engine::KvConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;
use super::raw::RawLocal;

/// As what numbers keys or values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvType {
    F32,
    #[default]
    F16,
    Bf16,
    #[serde(rename = "q8_0")]
    Q8_0,
    #[serde(rename = "q5_1")]
    Q5_1,
    #[serde(rename = "q5_0")]
    Q5_0,
    #[serde(rename = "q4_1")]
    Q4_1,
    #[serde(rename = "q4_0")]
    Q4_0,
    #[serde(rename = "iq4_nl")]
    Iq4Nl,
}

/// Whether attention is llama.cpp's flash attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlashAttention {
    #[default]
    Auto,
    On,
    Off,
}

/// `"auto"`, `true` or `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged, expecting = "must be \"auto\", true or false")]
pub enum KvUnified {
    Auto(Auto),
    Is(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    Auto,
}

/// `auto`, or a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum GpuLayers {
    Auto(Auto),
    Count(u32),
}

impl Default for GpuLayers {
    fn default() -> Self {
        Self::Auto(Auto::Auto)
    }
}

impl From<GpuLayers> for engine::GpuLayers {
    fn from(layers: GpuLayers) -> Self {
        match layers {
            GpuLayers::Auto(Auto::Auto) => Self::Fitted,
            GpuLayers::Count(count) => Self::Count(count),
        }
    }
}

impl Default for KvUnified {
    fn default() -> Self {
        Self::Auto(Auto::Auto)
    }
}

impl From<KvType> for engine::KvType {
    fn from(kind: KvType) -> Self {
        match kind {
            KvType::F32 => Self::F32,
            KvType::F16 => Self::F16,
            KvType::Bf16 => Self::Bf16,
            KvType::Q8_0 => Self::Q8_0,
            KvType::Q5_1 => Self::Q5_1,
            KvType::Q5_0 => Self::Q5_0,
            KvType::Q4_1 => Self::Q4_1,
            KvType::Q4_0 => Self::Q4_0,
            KvType::Iq4Nl => Self::Iq4Nl,
        }
    }
}

/// What no model could be run with is a fault here; what hangs on the model is said when it loads.
pub fn kv(raw: &RawLocal, findings: &mut Findings) -> KvConfig {
    let kv = KvConfig {
        type_k: raw.kv_type_k.into(),
        type_v: raw.kv_type_v.into(),
        flash_attention: match raw.flash_attention {
            FlashAttention::Auto => engine::FlashAttention::Auto,
            FlashAttention::On => engine::FlashAttention::On,
            FlashAttention::Off => engine::FlashAttention::Off,
        },
        unified: match raw.kv_unified {
            KvUnified::Auto(Auto::Auto) => None,
            KvUnified::Is(unified) => Some(unified),
        },
    };
    if let Err(fault) = kv.check() {
        findings.fault("local.kv_type_v", fault.to_string());
    }
    kv
}
