//! Which of a model's layers lie on accelerators: as many as fit into the memory that is free there,
//! by the header alone, before anything is loaded.
//!
//! ```text
//! header ─► Parts (bytes of each layer, of a step) ─┐
//! devices ─► free bytes, less a margin ─────────────┴─► fit ─► layers ─► load ─ no memory ─► fewer
//! ```
//! llama.cpp takes a count and puts so many layers from the end on the devices, the output counted as
//! the last, each device's share as large as its part of the free memory. [`place`] does the same, so
//! that each device is looked at with what it will get (`load_tensors` in `llama-model.cpp` of the
//! pinned llama-cpp-sys-2).

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::config::EngineConfig;
use crate::load::LoadError;

/// Left free on each device, at least: for what drivers and their libraries allot when the first
/// step is computed. A guess; nobody has measured it yet.
const MARGIN_BYTES_MIN: u64 = 512 << 20;
/// And at least one part in so many of what is free.
const MARGIN_SHARE: u64 = 32;
/// The output and one layer. With fewer the cache stays here, and nothing is gained.
const LAYERS_MIN: u32 = 2;

/// How many layers go to accelerators, in builds that have a back end for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GpuLayers {
    /// As many as fit.
    #[default]
    Fitted,
    /// So many, the output counted as one; the load fails where they do not fit.
    Count(u32),
}

impl GpuLayers {
    pub(crate) fn may_be_some(self) -> bool {
        self != GpuLayers::Count(0)
    }
}

/// An accelerator, as its back end describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `CUDA0`, `Vulkan1`.
    pub name: String,
    /// The maker's name for it.
    pub description: String,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl Device {
    /// What may be taken of it.
    fn room(&self) -> u64 {
        let margin = MARGIN_BYTES_MIN.max(self.free_bytes / MARGIN_SHARE);
        self.free_bytes.saturating_sub(margin)
    }
}

/// Where a loaded model's layers lie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// On devices, the output counted as one.
    pub layers: u32,
    /// All there are, the output counted as one.
    pub layers_all: u32,
    /// Those that layers lie on, as they were before the load.
    pub devices: Vec<Placed>,
}

/// A device's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub device: Device,
    pub layers: u32,
    /// What the layers, their cache and all beside them are foretold to take.
    pub need_bytes: u64,
    /// How much less was free once the model was loaded, whoever took it; 0 before.
    pub taken_bytes: u64,
}

impl Placed {
    fn without_layers(device: &Device) -> Self {
        Self {
            device: device.clone(),
            layers: 0,
            need_bytes: 0,
            taken_bytes: 0,
        }
    }

    fn take(&mut self, bytes: u64) {
        self.need_bytes = self.need_bytes.saturating_add(bytes);
    }
}

impl EngineConfig {
    /// Where the layers come to lie, on `devices`, while this machine has `free_bytes` free. Of a
    /// model without a shape nothing is said but the count that is asked for. Where there is no
    /// device none is put on any, whatever was asked for.
    #[must_use]
    pub fn placement(&self, devices: &[Device], free_bytes: Option<u64>) -> Placement {
        let parts = match &self.shape {
            Some(shape) => self.parts(shape, free_bytes),
            None => Parts::default(),
        };
        let layers = match (self.gpu_layers, &self.shape) {
            _ if devices.is_empty() => 0,
            (GpuLayers::Count(layers), None) => layers,
            (GpuLayers::Fitted, None) => u32::MAX,
            (GpuLayers::Count(layers), Some(_)) => layers.min(parts.count()),
            (GpuLayers::Fitted, Some(_)) => fit(&parts, devices),
        };
        Placement {
            layers,
            layers_all: parts.count(),
            devices: place(&parts, devices, layers),
        }
    }
}

impl Placement {
    /// Notes what `devices` have free now.
    pub(crate) fn note_taken(&mut self, devices: &[Device]) {
        for placed in &mut self.devices {
            let now = devices.iter().find(|it| it.name == placed.device.name);
            let free = now.map_or(placed.device.free_bytes, |it| it.free_bytes);
            placed.taken_bytes = placed.device.free_bytes.saturating_sub(free);
        }
    }
}

/// What each part of a model takes, wherever it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Weights and cache of each layer, in order.
    pub layers: Vec<u64>,
    /// The output's weights, as the last of all.
    pub output: u64,
    /// What a step computes in, on every device anew.
    pub compute: u64,
    /// The weights of the largest layer: large batches have those that stay here brought over.
    pub visiting: u64,
    /// Adapters' weights. They lie with the layers that they change, at worst all on each device.
    pub adapters: u64,
    /// The projector, whole on the first device.
    pub projector: u64,
}

impl Parts {
    /// The output counted as one. 0 where nothing is known of the model.
    pub(crate) fn count(&self) -> u32 {
        if self.layers.is_empty() {
            return 0;
        }
        u32::try_from(self.layers.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1)
    }

    /// What each device takes that holds any of the last `count`.
    fn beside_layers(&self, count: u32) -> u64 {
        let visiting = if count < self.count() {
            self.visiting
        } else {
            0
        };
        let parts = [visiting, self.adapters];
        parts.into_iter().fold(self.compute, u64::saturating_add)
    }

    /// The last `count`, the output at the end.
    fn last(&self, count: u32) -> impl Iterator<Item = u64> {
        let all = self.layers.iter().chain([&self.output]).copied();
        all.skip(self.count().saturating_sub(count) as usize)
    }
}

/// The most layers that fit; 0 where not even one does, or there is no device.
pub(crate) fn fit(parts: &Parts, devices: &[Device]) -> u32 {
    let fits = |layers: &u32| {
        let placed = place(parts, devices, *layers);
        !placed.is_empty() && placed.iter().all(|it| it.need_bytes <= it.device.room())
    };
    (LAYERS_MIN..=parts.count()).rev().find(fits).unwrap_or(0)
}

/// The devices that get any of the last `layers`, or the projector, and what that comes to on each.
pub(crate) fn place(parts: &Parts, devices: &[Device], layers: u32) -> Vec<Placed> {
    let layers = layers.min(parts.count());
    let splits = splits(devices);
    let mut placed: Vec<Placed> = devices.iter().map(Placed::without_layers).collect();
    for (index, bytes) in (0_u32..).zip(parts.last(layers)) {
        let Some(share) = device_of(index, layers, &splits).and_then(|at| placed.get_mut(at))
        else {
            return Vec::new();
        };
        share.layers += 1;
        share.take(bytes);
    }
    let beside_layers = parts.beside_layers(layers);
    for share in placed.iter_mut().filter(|share| share.layers > 0) {
        share.take(beside_layers);
    }
    if let Some(first) = placed.first_mut().filter(|_| layers > 0) {
        first.take(parts.projector);
    }
    placed.retain(|share| share.layers > 0 || share.need_bytes > 0);
    placed
}

/// Where each device's part of the free memory ends, of 1 in all. In 32 bits, as llama.cpp has it.
#[expect(clippy::cast_precision_loss, reason = "llama.cpp's own arithmetic")]
fn splits(devices: &[Device]) -> Vec<f32> {
    let mut sum = 0.0_f32;
    let ends: Vec<f32> = devices
        .iter()
        .map(|device| {
            sum += device.free_bytes as f32;
            sum
        })
        .collect();
    ends.into_iter().map(|end| end / sum).collect()
}

/// The first device whose part ends after the layer's place among all. None of a part that is no
/// number, as of devices that are full.
#[expect(clippy::cast_precision_loss, reason = "llama.cpp's own arithmetic")]
fn device_of(index: u32, layers: u32, splits: &[f32]) -> Option<usize> {
    let place = index as f32 / layers as f32;
    splits.iter().position(|end| *end > place)
}

/// Loads with `first` layers on devices. Where their memory was short after all, once more with half
/// of them, and with none in the end: a count that was foretold is no reason to have no model.
///
/// # Errors
/// The last load's.
pub(crate) fn load_fitted<T>(
    first: u32,
    mut load: impl FnMut(u32) -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    let mut layers = first;
    loop {
        match load(layers) {
            Err(error) if layers > 0 && error.is_shortage() => {
                let fewer = if layers == first { layers / 2 } else { 0 };
                let fewer = if fewer < LAYERS_MIN { 0 } else { fewer };
                warn!(
                    layers,
                    fewer, %error, "the accelerator has less memory than foretold"
                );
                layers = fewer;
            }
            loaded => return loaded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ModelShape;

    const MIB: u64 = 1 << 20;

    fn device(index: u32, free_mib: u64) -> Device {
        Device {
            name: format!("CUDA{index}"),
            description: "a card".to_owned(),
            free_bytes: free_mib * MIB,
            total_bytes: free_mib * MIB,
        }
    }

    /// Ten layers of 100 MiB, an output of 200, 50 for a step.
    fn parts() -> Parts {
        Parts {
            layers: vec![100 * MIB; 10],
            output: 200 * MIB,
            compute: 50 * MIB,
            visiting: 80 * MIB,
            adapters: 0,
            projector: 0,
        }
    }

    /// Free memory of which `mib` remain beside the margin.
    fn with_room(mib: u64) -> u64 {
        mib + 512
    }

    fn fitted(free: &[u64]) -> u32 {
        let devices: Vec<Device> = (0..).zip(free).map(|(at, mib)| device(at, *mib)).collect();
        fit(&parts(), &devices)
    }

    #[test]
    fn a_device_gets_as_many_layers_as_it_has_room_for() {
        let cases: [(&[u64], u32, &str); 9] = [
            (&[], 0, "no device"),
            (&[0], 0, "a full device"),
            (&[with_room(0)], 0, "nothing beside the margin"),
            (&[with_room(429)], 0, "the output and no layer"),
            (
                &[with_room(430)],
                2,
                "a layer, the output and a visiting layer",
            ),
            (&[with_room(1_229)], 9, "all but two, to the byte less one"),
            (
                &[with_room(1_230)],
                10,
                "nothing visits where all fit, but not all do",
            ),
            (&[with_room(1_250)], 11, "all, to the byte"),
            (&[80_000], 11, "a large one"),
        ];
        for (free, layers, what) in cases {
            assert_eq!(fitted(free), layers, "{what}");
        }
        let mut short = device(0, with_room(1_250));
        short.free_bytes -= 1;
        assert_eq!(fit(&parts(), &[short]), 10, "a byte too few for all");
    }

    #[test]
    fn a_large_device_keeps_a_part_of_itself_free() {
        assert_eq!(device(0, 64 * 1024).room(), 62 * 1024 * MIB);
        assert_eq!(device(0, 1_000).room(), 488 * MIB);
        assert_eq!(device(0, 100).room(), 0);
    }

    #[test]
    fn several_devices_share_by_what_is_free() {
        let devices = [device(0, 3_000), device(1, 1_000)];
        let placed = place(&parts(), &devices, 11);
        // 3 of 4 parts: places 0/11 to 8/11.
        let layers: Vec<u32> = placed.iter().map(|it| it.layers).collect();
        assert_eq!(layers, [9, 2]);
        let needs: Vec<u64> = placed.iter().map(|it| it.need_bytes / MIB).collect();
        assert_eq!(needs, [950, 350]);
        assert_eq!(fit(&parts(), &devices), 11);
        // Both need room of their own for a step, and each looks at its own share.
        assert_eq!(fitted(&[with_room(700), with_room(700)]), 11);
        assert_eq!(fitted(&[with_room(650), with_room(649)]), 9);
        assert_eq!(fitted(&[with_room(650), 0]), 4);
    }

    #[test]
    fn adapters_may_lie_on_each_device() {
        let adapted = Parts {
            adapters: 30 * MIB,
            ..parts()
        };
        let devices = [device(0, 3_000), device(1, 1_000)];
        let needs = |parts: &Parts| {
            let placed = place(parts, &devices, 11).into_iter();
            placed.map(|it| it.need_bytes / MIB).collect::<Vec<u64>>()
        };
        assert_eq!(needs(&parts()), [950, 350]);
        assert_eq!(needs(&adapted), [980, 380]);
        assert_eq!(fit(&adapted, &[device(0, with_room(1_280))]), 11);
        assert_eq!(fit(&adapted, &[device(0, with_room(1_259))]), 9);
    }

    #[test]
    fn a_projector_lies_on_the_first_device_if_any_layer_does() {
        let seeing = Parts {
            projector: 300 * MIB,
            ..parts()
        };
        let placed = place(&seeing, &[device(0, 3_000), device(1, 1_000)], 11);
        let needs: Vec<u64> = placed.iter().map(|it| it.need_bytes / MIB).collect();
        assert_eq!(needs, [1_250, 350]);
        assert_eq!(fit(&seeing, &[device(0, with_room(1_550))]), 11);
        assert_eq!(fit(&seeing, &[device(0, with_room(1_529))]), 9);
        // All of the layers would go to the second, and the projector to the first, which is full.
        let devices = [device(0, 0), device(1, 8_000)];
        let placed = place(&seeing, &devices, 11);
        let layers: Vec<u32> = placed.iter().map(|it| it.layers).collect();
        assert_eq!(layers, [0, 11]);
        assert_eq!(fit(&seeing, &devices), 0);
        assert_eq!(fit(&parts(), &devices), 11);
        // It stays here with all the layers.
        assert_eq!(place(&seeing, &[device(0, 3_000)], 0), []);
    }

    #[test]
    fn an_expert_mixture_counts_its_experts() {
        // Two dense layers, then four of 6 GiB each: from the end, the large ones come first.
        let mixture = Parts {
            layers: [vec![200 * MIB; 2], vec![6 * 1024 * MIB; 4]].concat(),
            output: 600 * MIB,
            compute: 300 * MIB,
            visiting: 6 * 1024 * MIB,
            ..Parts::default()
        };
        assert_eq!(fit(&mixture, &[device(0, 12 * 1024)]), 0);
        assert_eq!(fit(&mixture, &[device(0, 16 * 1024)]), 2);
        assert_eq!(fit(&mixture, &[device(0, 24 * 1024)]), 3);
        assert_eq!(fit(&mixture, &[device(0, 32 * 1024)]), 7);
    }

    #[test]
    fn a_header_that_claims_the_most_fits_nowhere() {
        let most = Parts {
            layers: vec![u64::MAX; 512],
            output: u64::MAX,
            compute: u64::MAX,
            visiting: u64::MAX,
            adapters: u64::MAX,
            projector: u64::MAX,
        };
        assert_eq!(fit(&most, &[device(0, 80_000), device(1, 80_000)]), 0);
        assert_eq!(fit(&Parts::default(), &[device(0, 80_000)]), 0);
    }

    #[test]
    fn without_a_device_all_stays_here_whatever_is_asked_for() {
        let mut config = EngineConfig::new("m.gguf", "m");
        let placement = config.placement(&[device(0, 8_000)], None);
        assert_eq!(placement.layers, u32::MAX, "no header");
        config.shape = Some(Box::new(ModelShape {
            layer_weights: vec![MIB; 4],
            token_numbers: vec![16; 4],
            context_tokens: Some(256),
            ..ModelShape::default()
        }));
        let placement = config.placement(&[], None);
        assert_eq!((placement.layers, placement.layers_all), (0, 5));
        let mut placement = config.placement(&[device(0, 8_000)], None);
        assert_eq!((placement.layers, placement.devices[0].layers), (5, 5));
        placement.note_taken(&[device(0, 7_990)]);
        assert_eq!(placement.devices[0].taken_bytes, 10 * MIB);
        config.gpu_layers = GpuLayers::Count(99);
        let placement = config.placement(&[], None);
        assert_eq!((placement.layers, placement.layers_all), (0, 5));
        assert_eq!(config.placement(&[device(0, 8_000)], None).layers, 5);
        config.gpu_layers = GpuLayers::Count(3);
        let placement = config.placement(&[device(0, 8_000)], None);
        assert_eq!((placement.layers, placement.devices[0].layers), (3, 3));
    }

    fn short() -> LoadError {
        LoadError::Context {
            kv_tokens: 1,
            reason: "failed to allocate buffer for kv cache".to_owned(),
        }
    }

    /// The counts that are tried where no more than `holds` layers can be held.
    fn tried(first: u32, holds: u32, refusal: fn() -> LoadError) -> (Vec<u32>, bool) {
        let mut tried = Vec::new();
        let loaded = load_fitted(first, |layers| {
            tried.push(layers);
            if layers > holds {
                Err(refusal())
            } else {
                Ok(())
            }
        });
        (tried, loaded.is_ok())
    }

    #[test]
    fn a_hopeful_guess_costs_a_second_load_and_no_model() {
        assert_eq!(tried(33, 33, short), (vec![33], true));
        assert_eq!(tried(33, 20, short), (vec![33, 16], true));
        assert_eq!(tried(33, 3, short), (vec![33, 16, 0], true));
        assert_eq!(tried(3, 0, short), (vec![3, 0], true));
        assert_eq!(tried(0, 0, short), (vec![0], true));
        let other = || LoadError::NotBuilt;
        assert_eq!(tried(33, 20, other), (vec![33], false));
    }

    /// Words of the pinned llama.cpp and its back ends.
    #[test]
    fn a_shortage_is_known_by_its_words() {
        let refused = |reason: &str| LoadError::Refused {
            path: "m.gguf".into(),
            reason: reason.to_owned(),
        };
        for reason in [
            "allocating 1024.00 MiB on device 0: cudaMalloc failed: out of memory",
            "Device memory allocation of size 1073741824 failed.",
            "unable to allocate CUDA0 buffer",
        ] {
            assert!(refused(reason).is_shortage(), "{reason}");
        }
        assert!(!refused("unknown model architecture: 'x'").is_shortage());
        assert!(!LoadError::Panicked.is_shortage());
    }

    #[test]
    fn with_no_layer_left_the_fault_is_told() {
        let loaded: Result<(), _> = load_fitted(9, |_| Err(short()));
        assert!(matches!(loaded, Err(LoadError::Context { .. })));
    }
}
