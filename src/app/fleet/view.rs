//! The fleet as the operator sees it.

use std::time::Instant;

use api::{DeviceView, ModelBoard, ModelFile, ModelState, ModelView, ModelsView};
use domain::HealthState;
use engine::{DraftCount, Placed};

use super::{Berth, Book, Fleet, State, ends, now};
use crate::local::{Home, LocalModel};
use crate::memory;

impl ModelBoard for Fleet {
    fn view(&self) -> ModelsView {
        let mut view = self.snapshot();
        // Read without the lock that every request takes.
        for model in &mut view.models {
            model.memory_bytes_resident = model.pid.and_then(memory::resident_bytes);
        }
        view
    }

    /// A model under an adapter has the file of the model itself.
    fn files(&self) -> Vec<ModelFile> {
        let of_model = |model: &LocalModel| {
            let summary = &model.summary;
            let file = ModelFile {
                name: String::new(),
                bytes: summary.bytes,
                architecture: summary.architecture.clone(),
                parameter_count: summary.parameter_count,
                quantization: summary.file_type.and_then(quantization),
                licence: summary.licence.clone(),
                template: summary.chat_template.clone(),
            };
            let names = model.engine.model_names();
            let files = names.map(|name| ModelFile {
                name: name.to_owned(),
                ..file.clone()
            });
            files.collect::<Vec<_>>()
        };
        self.models.iter().flat_map(of_model).collect()
    }
}

/// What llama.cpp calls its numbers of how most weights are packed (`llama_ftype` in its `llama.h`).
fn quantization(file_type: u64) -> Option<&'static str> {
    Some(match file_type {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        32 => "BF16",
        _ => return None,
    })
}

impl Fleet {
    fn snapshot(&self) -> ModelsView {
        let book = self.book();
        let now = now();
        ModelsView {
            memory_bytes_max: book.registry.budget(),
            memory_bytes_used: book.registry.in_use(),
            models: (0..self.models.len())
                .map(|at| self.model(at, &book, now))
                .collect(),
        }
    }

    fn model(&self, at: usize, book: &Book, now: Instant) -> ModelView {
        let (registry, berth) = (&book.registry, &book.berths[at]);
        let (state, reason) = state(book, at);
        let vitals = berth.engine.as_ref().map(|engine| engine.vitals());
        let vitals = vitals.unwrap_or_default();
        let waiting = match registry.state(at) {
            State::Loaded => vitals.waiting,
            _ => registry.holds(at),
        };
        let seconds = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
        let terms = registry.terms(at);
        let placement = berth.engine.as_ref().map(|engine| engine.placement());
        let placement = placement.unwrap_or_default();
        ModelView {
            name: terms.name.clone(),
            state,
            reason,
            is_pinned: terms.keep_alive.is_none(),
            isolation: match self.models[at].home {
                Home::Thread => "thread".to_owned(),
                Home::Process(_) => "process".to_owned(),
            },
            pid: berth.engine.as_ref().and_then(|engine| engine.pid()),
            slots_busy: vitals.running,
            slots_max: self.models[at].engine.slots_max,
            queued: waiting,
            prompt_tokens_per_s: vitals.prompt_rate,
            reply_tokens_per_s: vitals.reply_rate,
            memory_bytes_predicted: terms.need,
            memory_bytes_resident: None,
            gpu_layers: if placement.devices.is_empty() {
                0
            } else {
                placement.layers
            },
            layers: placement.layers_all,
            devices: placement.devices.iter().map(device).collect(),
            idle_s: registry
                .idle_since(at)
                .map(|since| now.saturating_duration_since(since).as_secs_f64()),
            unloads_in_s: registry.leaves_at(at).map(seconds),
            loads: berth.counts.loads,
            load_failures: berth.counts.failures,
            idle_unloads: berth.counts.idle_unloads,
            memory_unloads: berth.counts.memory_unloads,
            restarts: restarts(berth),
        }
    }

    /// Tokens drafted by all models since the start, and how many were right.
    #[must_use]
    pub fn drafts(&self) -> DraftCount {
        let book = self.book();
        let berths = book.berths.iter();
        berths.fold(DraftCount::default(), |sum, berth| {
            let now = berth.engine.as_ref().map(|engine| engine.drafts());
            sum.and(berth.drafts_before).and(now.unwrap_or_default())
        })
    }
}

fn device(placed: &Placed) -> DeviceView {
    DeviceView {
        name: placed.device.name.clone(),
        description: placed.device.description.clone(),
        layers: placed.layers,
        memory_bytes_predicted: placed.need_bytes,
        memory_bytes_taken: placed.taken_bytes,
        memory_bytes_free: placed.device.free_bytes,
        memory_bytes_total: placed.device.total_bytes,
    }
}

/// Ends of a model's processes by themselves.
fn restarts(berth: &Berth) -> u64 {
    berth.ends_before + berth.engine.as_ref().map_or(0, ends)
}

fn state(book: &Book, at: usize) -> (ModelState, Option<String>) {
    let berth = &book.berths[at];
    match book.registry.state(at) {
        State::Loaded => {
            let health = berth
                .engine
                .as_ref()
                .map(|engine| engine.backend().health());
            let state = match health.map(|health| health.state) {
                Some(HealthState::Ready) => ModelState::Loaded,
                Some(HealthState::Starting) => ModelState::Loading,
                Some(HealthState::Down) | None => ModelState::Down,
            };
            let reason = health.and_then(|health| health.reason);
            (state, reason.map(str::to_owned))
        }
        State::Loading { .. } => (ModelState::Loading, None),
        State::Unloading => (ModelState::Unloading, None),
        State::Failed { .. } => {
            let words = berth.failure.as_ref().map(|failure| failure.words.clone());
            (ModelState::Down, words)
        }
        State::Unloaded => match book.registry.never_fits(at) {
            Some(shortage) => (ModelState::Down, Some(shortage.to_string())),
            None => (ModelState::Unloaded, None),
        },
    }
}
