//! The fleet as the operator sees it.

use std::time::Instant;

use api::{ModelBoard, ModelState, ModelView, ModelsView};
use domain::HealthState;
use engine::DraftCount;

use super::{Berth, Book, Fleet, State, ends, now};
use crate::local::Home;
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
