//! `/admin/v1/models`: the models on this machine as they are now, for the operator alone.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::Fault;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::error::refusal;
use crate::models::json;
use crate::server::Api;

/// Whoever knows the models on this machine.
pub trait ModelBoard: Send + Sync + 'static {
    /// As they are now. May look at files of the system's, and nothing slower.
    fn view(&self) -> ModelsView;

    /// What their files say, of each name that a model goes by. Cheap.
    fn files(&self) -> Vec<ModelFile> {
        Vec::new()
    }
}

/// What is known of a model on this machine from its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFile {
    pub name: String,
    pub bytes: u64,
    /// GGUF's: `llama`, `qwen2`, …
    pub architecture: String,
    pub parameter_count: u64,
    /// How most weights are packed: `Q4_K_M`.
    pub quantization: Option<&'static str>,
    pub licence: Option<String>,
    /// In Jinja.
    pub template: Option<String>,
}

/// What is answered. Fields are added over time, and none changes its meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelsView {
    /// `local.memory_bytes_max`, or what stands for it.
    pub memory_bytes_max: u64,
    /// Of it, foretold for what is loaded, or on its way in or out.
    pub memory_bytes_used: u64,
    /// The default one first.
    pub models: Vec<ModelView>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    Loaded,
    Loading,
    Unloading,
    /// It is loaded when a request comes for it.
    Unloaded,
    Down,
}

impl ModelState {
    pub const ALL: [ModelState; 5] = [
        ModelState::Loaded,
        ModelState::Loading,
        ModelState::Unloading,
        ModelState::Unloaded,
        ModelState::Down,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            ModelState::Loaded => "loaded",
            ModelState::Loading => "loading",
            ModelState::Unloading => "unloading",
            ModelState::Unloaded => "unloaded",
            ModelState::Down => "down",
        }
    }
}

/// A model's share of an accelerator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceView {
    pub name: String,
    pub description: String,
    pub layers: u32,
    pub memory_bytes_predicted: u64,
    /// How much less was free after the load than before.
    pub memory_bytes_taken: u64,
    /// Before the load.
    pub memory_bytes_free: u64,
    pub memory_bytes_total: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelView {
    pub name: String,
    pub state: ModelState,
    /// Why it is down.
    pub reason: Option<String>,
    /// It stays once it is loaded.
    pub is_pinned: bool,
    /// `process` or `thread`.
    pub isolation: String,
    pub pid: Option<u32>,
    pub slots_busy: u32,
    pub slots_max: u32,
    /// Requests in its queue, and those that wait for it to be loaded.
    pub queued: u32,
    /// As last measured, since it was loaded.
    pub prompt_tokens_per_s: Option<f64>,
    /// Of each reply under way.
    pub reply_tokens_per_s: Option<f64>,
    /// What it is foretold to take.
    pub memory_bytes_predicted: u64,
    /// What its process has in memory.
    pub memory_bytes_resident: Option<u64>,
    /// Layers on accelerators, and how many there are, the output counted as one. 0 of 0 while it is
    /// not loaded.
    pub gpu_layers: u32,
    pub layers: u32,
    /// The accelerators that hold any.
    pub devices: Vec<DeviceView>,
    pub idle_s: Option<f64>,
    /// Until it is unloaded if no request comes.
    pub unloads_in_s: Option<f64>,
    pub loads: u64,
    pub load_failures: u64,
    pub idle_unloads: u64,
    pub memory_unloads: u64,
    /// Ends of its processes by themselves.
    pub restarts: u64,
}

pub(crate) async fn list(State(api): State<Arc<Api>>) -> Response<Body> {
    match &api.board {
        Some(board) => json(StatusCode::OK, &board.view()),
        None => refusal(&Fault::NotFound),
    }
}
