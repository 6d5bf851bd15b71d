//! `hedge ps`: the models of a running server, as a table.

use std::process::ExitCode;

use anyhow::Context;
use api::{DeviceView, ModelView, ModelsView};

use super::admin::Admin;
use crate::cli::PsArgs;
use crate::fleet::mebibytes;
use crate::terminal;

const HEADS: [&str; 12] = [
    "MODEL",
    "STATE",
    "PID",
    "SLOTS",
    "QUEUED",
    "PROMPT/S",
    "REPLY/S",
    "MEMORY",
    "PREDICTED",
    "GPU",
    "IDLE",
    "UNLOADS",
];

/// Asks and shows.
///
/// # Errors
/// No server answers there, or one that shows no models.
pub fn ps(args: &PsArgs) -> anyhow::Result<ExitCode> {
    let admin = Admin::at(args.url.as_deref(), &args.config)?;
    let text = admin.get("/admin/v1/models")?;
    let view: ModelsView =
        serde_json::from_slice(&text).context("what answered is no hedge of this version")?;
    if args.json {
        terminal::say(serde_json::to_string_pretty(&view)?);
    } else {
        terminal::say_part(table(&view));
    }
    Ok(ExitCode::SUCCESS)
}

/// Columns as wide as their widest cell, and after them why models are down.
fn table(view: &ModelsView) -> String {
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(view.models.iter().map(row));
    let widths: Vec<usize> = (0..HEADS.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text.push_str(&format!(
        "{} of {} of memory is taken or promised\n",
        mebibytes(view.memory_bytes_used),
        mebibytes(view.memory_bytes_max)
    ));
    for model in &view.models {
        for device in &model.devices {
            text.push_str(&format!("{}: {}\n", model.name, share(device)));
        }
        if let Some(reason) = &model.reason {
            text.push_str(&format!("{}: {reason}\n", model.name));
        }
    }
    text
}

fn row(model: &ModelView) -> [String; HEADS.len()] {
    let dash = || "-".to_owned();
    let rate = |rate: Option<f64>| rate.map_or_else(dash, |rate| format!("{rate:.1}"));
    let seconds = |seconds: Option<f64>| seconds.map_or_else(dash, |it| format!("{it:.0}s"));
    let pid = match (&model.pid, model.isolation.as_str()) {
        (Some(pid), _) => pid.to_string(),
        (None, "thread") => "thread".to_owned(),
        (None, _) => dash(),
    };
    let unloads = if model.is_pinned {
        "never".to_owned()
    } else {
        seconds(model.unloads_in_s)
    };
    [
        model.name.clone(),
        model.state.as_label().to_owned(),
        pid,
        format!("{}/{}", model.slots_busy, model.slots_max),
        model.queued.to_string(),
        rate(model.prompt_tokens_per_s),
        rate(model.reply_tokens_per_s),
        model.memory_bytes_resident.map_or_else(dash, mebibytes),
        mebibytes(model.memory_bytes_predicted),
        gpu(model),
        seconds(model.idle_s),
        unloads,
    ]
}

/// How many of the layers are on accelerators, of a model that is loaded.
fn gpu(model: &ModelView) -> String {
    if model.layers == 0 {
        return "-".to_owned();
    }
    format!("{}/{}", model.gpu_layers, model.layers)
}

fn share(device: &DeviceView) -> String {
    format!(
        "{} layers on {} ({}), {} predicted, {} taken of {} that were free",
        device.layers,
        device.name,
        device.description,
        mebibytes(device.memory_bytes_predicted),
        mebibytes(device.memory_bytes_taken),
        mebibytes(device.memory_bytes_free)
    )
}

#[cfg(test)]
mod tests {
    use api::ModelState;

    use super::*;

    fn model(name: &str, state: ModelState) -> ModelView {
        ModelView {
            name: name.to_owned(),
            state,
            reason: None,
            is_pinned: false,
            isolation: "process".to_owned(),
            pid: None,
            slots_busy: 0,
            slots_max: 8,
            queued: 0,
            prompt_tokens_per_s: None,
            reply_tokens_per_s: None,
            memory_bytes_predicted: 10 << 20,
            memory_bytes_resident: None,
            gpu_layers: 0,
            layers: 0,
            devices: Vec::new(),
            idle_s: None,
            unloads_in_s: None,
            loads: 0,
            load_failures: 0,
            idle_unloads: 0,
            memory_unloads: 0,
            restarts: 0,
        }
    }

    #[test]
    fn the_table_lines_up_and_says_why_a_model_is_down() {
        let busy = ModelView {
            pid: Some(4321),
            is_pinned: true,
            slots_busy: 2,
            queued: 3,
            prompt_tokens_per_s: Some(245.04),
            reply_tokens_per_s: Some(43.97),
            memory_bytes_resident: Some(700 << 20),
            gpu_layers: 20,
            layers: 25,
            devices: vec![DeviceView {
                name: "CUDA0".to_owned(),
                description: "a card".to_owned(),
                layers: 20,
                memory_bytes_predicted: 300 << 20,
                memory_bytes_taken: 280 << 20,
                memory_bytes_free: 900 << 20,
                memory_bytes_total: 1000 << 20,
            }],
            ..model("qwen2.5-0.5b", ModelState::Loaded)
        };
        let idle = ModelView {
            pid: Some(99),
            layers: 5,
            idle_s: Some(12.4),
            unloads_in_s: Some(287.6),
            ..model("tiny", ModelState::Loaded)
        };
        let down = ModelView {
            reason: Some("it needs too much".to_owned()),
            ..model("huge", ModelState::Down)
        };
        let text = table(&ModelsView {
            memory_bytes_max: 1 << 30,
            memory_bytes_used: 20 << 20,
            models: vec![busy, idle, down],
        });
        let expected = "\
MODEL         STATE   PID   SLOTS  QUEUED  PROMPT/S  REPLY/S  MEMORY   PREDICTED  GPU    IDLE  UNLOADS
qwen2.5-0.5b  loaded  4321  2/8    3       245.0     44.0     700 MiB  10 MiB     20/25  -     never
tiny          loaded  99    0/8    0       -         -        -        10 MiB     0/5    12s   288s
huge          down    -     0/8    0       -         -        -        10 MiB     -      -     -
20 MiB of 1024 MiB of memory is taken or promised
qwen2.5-0.5b: 20 layers on CUDA0 (a card), 300 MiB predicted, 280 MiB taken of 900 MiB that were free
huge: it needs too much
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_view_travels_as_it_is() {
        let view = ModelsView {
            models: vec![model("m", ModelState::Unloaded)],
            ..ModelsView::default()
        };
        let json = serde_json::to_string(&view).unwrap();
        assert!(json.contains(r#""state":"unloaded""#), "{json}");
        assert_eq!(serde_json::from_str::<ModelsView>(&json).unwrap(), view);
    }
}
