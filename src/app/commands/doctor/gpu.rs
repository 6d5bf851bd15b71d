//! GPUs, as the engine sees them, and what of the models would go there.

use std::path::Path;

use engine::{Device, GpuLayers, Placement};

use super::Line;
use crate::commands::version::features;
use crate::fleet::mebibytes;
use crate::local::{self, LocalModel, Located};
use crate::memory;

const WHAT: &str = "gpu";
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// What there is to compute on beside the CPU.
pub struct Gpus {
    /// The feature for them that this binary was built with.
    built_for: Option<&'static str>,
    devices: Vec<Device>,
    /// What a file of the system's says is there, and the feature for it.
    seen: Option<(&'static str, &'static str)>,
}

impl Gpus {
    /// Asks the back end only where the build has one: that wakes the devices' drivers.
    pub fn look() -> Self {
        let built = features().into_iter();
        let mut built = built.filter(|(_, is_on)| *is_on).map(|(name, _)| name);
        let built_for = built.find(|name| matches!(*name, "cuda" | "vulkan" | "metal"));
        let seen = [
            ("/dev/nvidiactl", "an NVIDIA GPU", "cuda"),
            ("/dev/kfd", "an AMD GPU", "vulkan"),
            ("/dev/dri/renderD128", "a GPU", "vulkan"),
        ];
        let mut seen = seen.into_iter();
        Self {
            built_for,
            devices: match built_for {
                Some(_) => engine::devices(local::backends_dir().as_deref()),
                None => Vec::new(),
            },
            seen: seen
                .find(|(path, ..)| Path::new(path).exists())
                .map(|(_, what, feature)| (what, feature)),
        }
    }

    /// A line for each device, or why there is none.
    pub fn lines(&self) -> Vec<Line> {
        if !self.devices.is_empty() {
            let devices = self.devices.iter();
            return devices.map(|it| Line::ok(WHAT, card(it))).collect();
        }
        let line = match (self.built_for, self.seen) {
            (None, None) => Line::ok(
                WHAT,
                "none seen, and this build has no back end for one; the CPU computes",
            ),
            (None, Some((what, feature))) => Line::warn(
                WHAT,
                format!("{what} is there and this build does not use it"),
                format!("build with --features {feature} (docs/gpu.md)"),
            ),
            (Some(feature), None) => Line::warn(
                WHAT,
                format!("this build wants one ({feature}) and none is seen"),
                "pass the device into the container, or install its driver",
            ),
            (Some(feature), Some((what, _))) => Line::warn(
                WHAT,
                format!("{what} is there and {feature} finds none it can use"),
                "install its driver, or the container toolkit's share of it (docs/gpu.md)",
            ),
        };
        vec![line]
    }

    /// Where each model's layers would come to lie if it were loaded now.
    pub fn models(&self, located: &Located) -> Vec<Line> {
        let free = memory::available_bytes();
        let line = |model: &LocalModel| {
            let placement = model.engine.placement(&self.devices, free);
            self.layers(&model.engine.name, model.engine.gpu_layers, &placement)
        };
        located.models().map(line).collect()
    }

    fn layers(&self, name: &str, asked: GpuLayers, placement: &Placement) -> Line {
        let said = |layers, why: &str| {
            let all = placement.layers_all;
            format!("{layers} of {all} layers of {name}{why}")
        };
        if !placement.devices.is_empty() {
            return shares(placement, said);
        }
        match (asked, self.built_for, self.devices.is_empty()) {
            (GpuLayers::Count(0), ..) => Line::ok(WHAT, said(0, ", as gpu_layers says")),
            (GpuLayers::Fitted, _, true) => Line::ok(WHAT, said(0, ": there is none to use")),
            (GpuLayers::Count(_), built_for, true) => Line::warn(
                WHAT,
                said(0, ": gpu_layers asks for more, and there is none to use"),
                match built_for {
                    Some(_) => "see the line above",
                    None => "build with --features cuda, vulkan or metal (docs/gpu.md)",
                },
            ),
            (GpuLayers::Count(_) | GpuLayers::Fitted, _, false) => Line::warn(
                WHAT,
                said(0, ": no more have room"),
                "free its memory, or lower context_tokens_max, slots_max or kv_tokens_max",
            ),
        }
    }
}

fn shares(placement: &Placement, said: impl Fn(u32, &str) -> String) -> Line {
    let shares = placement.devices.iter().map(|it| {
        let need = mebibytes(it.need_bytes);
        format!("{} on {} ({need})", it.layers, it.device.name)
    });
    let shares: Vec<String> = shares.collect();
    let found = said(placement.layers, &format!(": {}", shares.join(", ")));
    let mut devices = placement.devices.iter();
    // Fitted ones never do.
    if devices.any(|it| it.need_bytes > it.device.free_bytes) {
        return Line::warn(
            WHAT,
            format!("{found}, which is more than is free"),
            "lower gpu_layers, or leave it out: as many as fit go there",
        );
    }
    Line::ok(WHAT, found)
}

fn card(device: &Device) -> String {
    format!(
        "{} ({}), {:.1} GiB free of {:.1}",
        device.name,
        device.description,
        device.free_bytes as f64 / GIB,
        device.total_bytes as f64 / GIB
    )
}

#[cfg(test)]
mod tests {
    use engine::{EngineConfig, ModelShape};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn gpus(built_for: Option<&'static str>, free: &[u64]) -> Gpus {
        let devices = (0..).zip(free).map(|(at, free): (u32, &u64)| Device {
            name: format!("CUDA{at}"),
            description: "a card".to_owned(),
            free_bytes: *free,
            total_bytes: 8192 * MIB,
        });
        Gpus {
            built_for,
            devices: devices.collect(),
            seen: None,
        }
    }

    /// Of a model of four layers of 100 MiB each.
    fn said(gpus: &Gpus, gpu_layers: GpuLayers) -> String {
        let config = EngineConfig {
            gpu_layers,
            shape: Some(Box::new(ModelShape {
                layer_weights: vec![100 * MIB; 4],
                token_numbers: vec![16; 4],
                context_tokens: Some(256),
                ..ModelShape::default()
            })),
            ..EngineConfig::new("m.gguf", "m")
        };
        let placement = config.placement(&gpus.devices, None);
        gpus.layers("m", gpu_layers, &placement).to_string()
    }

    #[test]
    fn a_build_for_the_cpu_says_that_auto_is_none() {
        let gpus = gpus(None, &[]);
        assert_eq!(
            gpus.lines()[0].to_string(),
            "ok    gpu        none seen, and this build has no back end for one; the CPU computes"
        );
        assert_eq!(
            said(&gpus, GpuLayers::Fitted),
            "ok    gpu        0 of 5 layers of m: there is none to use"
        );
        let counted = said(&gpus, GpuLayers::Count(20));
        assert!(counted.starts_with("warn  gpu        0 of 5 layers of m: gpu_layers asks"));
        assert!(counted.contains("build with --features cuda"), "{counted}");
    }

    #[test]
    fn a_build_for_gpus_says_what_goes_to_each() {
        let two = gpus(Some("cuda"), &[6144 * MIB, 2048 * MIB]);
        assert_eq!(
            two.lines()[1].to_string(),
            "ok    gpu        CUDA1 (a card), 2.0 GiB free of 8.0"
        );
        let fitted = said(&two, GpuLayers::Fitted);
        assert!(
            fitted.starts_with("ok    gpu        5 of 5 layers of m: 4 on CUDA0 ("),
            "{fitted}"
        );
        assert!(fitted.contains("1 on CUDA1 ("), "{fitted}");
        assert_eq!(
            said(&two, GpuLayers::Count(0)),
            "ok    gpu        0 of 5 layers of m, as gpu_layers says"
        );
        let full = gpus(Some("cuda"), &[300 * MIB]);
        let fitted = said(&full, GpuLayers::Fitted);
        assert!(
            fitted.starts_with("warn  gpu        0 of 5 layers of m: no more have room"),
            "{fitted}"
        );
        let counted = said(&full, GpuLayers::Count(99));
        assert!(counted.contains("more than is free"), "{counted}");
        let none = said(&gpus(Some("cuda"), &[]), GpuLayers::Count(1));
        assert!(none.contains("see the line above"), "{none}");
    }
}
