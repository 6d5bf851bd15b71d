//! The accelerators that llama.cpp sees, and would take if nobody chose.

use std::path::Path;

use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};

use crate::llama::open::{backend, free_bytes};
use crate::offload::Device;

/// llama-cpp-2 has places for 16, and llama.cpp reads on until an empty one.
const DEVICES_MAX: usize = 15;

/// A device and its place among all of ggml's.
#[derive(Clone, Debug)]
pub(super) struct Accelerator {
    pub index: usize,
    pub device: Device,
}

/// What there is to compute on beside the CPU. Wakes the devices' drivers, which takes them up to
/// seconds and some memory: not for the server's own process.
#[must_use]
pub fn devices(backends_dir: Option<&Path>) -> Vec<Device> {
    let _ = backend(backends_dir);
    bare(&accelerators(free_bytes()))
}

pub(super) fn bare(accelerators: &[Accelerator]) -> Vec<Device> {
    accelerators.iter().map(|it| it.device.clone()).collect()
}

/// Those of the first back end that has any: two back ends may show one card twice. Cards of their
/// own come before a processor's graphics, which share the machine's memory.
pub(super) fn accelerators(free_bytes: Option<u64>) -> Vec<Accelerator> {
    chosen(list_llama_ggml_backend_devices(), free_bytes)
}

fn chosen(all: Vec<LlamaBackendDevice>, free_bytes: Option<u64>) -> Vec<Accelerator> {
    let kinds = [
        LlamaBackendDeviceType::Gpu,
        LlamaBackendDeviceType::IntegratedGpu,
    ];
    let first = kinds
        .into_iter()
        .find_map(|kind| all.iter().find(|it| it.device_type == kind));
    let Some((kind, back_end)) = first.map(|it| (it.device_type, it.backend.clone())) else {
        return Vec::new();
    };
    all.into_iter()
        .filter(|it| it.device_type == kind && it.backend == back_end)
        .take(DEVICES_MAX)
        .map(|it| Accelerator {
            index: it.index,
            device: device(it, free_bytes),
        })
        .collect()
}

/// One that says nothing of its memory has the machine's, as for llama.cpp.
fn device(found: LlamaBackendDevice, free_bytes: Option<u64>) -> Device {
    let free = u64::try_from(found.memory_free).unwrap_or(u64::MAX);
    let total = u64::try_from(found.memory_total).unwrap_or(u64::MAX);
    let says_nothing = free == 0 && total == 0;
    let shared = free_bytes.unwrap_or(0);
    Device {
        name: found.name,
        description: found.description,
        free_bytes: if says_nothing { shared } else { free },
        total_bytes: if says_nothing { shared } else { total },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(
        index: usize,
        backend: &str,
        device_type: LlamaBackendDeviceType,
        memory: usize,
    ) -> LlamaBackendDevice {
        LlamaBackendDevice {
            index,
            name: format!("{backend}{index}"),
            description: String::new(),
            backend: backend.to_owned(),
            memory_total: memory,
            memory_free: memory,
            device_type,
        }
    }

    fn names(all: Vec<LlamaBackendDevice>) -> Vec<(usize, u64)> {
        let chosen = chosen(all, Some(7));
        let pairs = chosen
            .into_iter()
            .map(|it| (it.index, it.device.free_bytes));
        pairs.collect()
    }

    #[test]
    fn a_place_stays_empty_at_the_end() {
        let gpu = LlamaBackendDeviceType::Gpu;
        let all = (0..20).map(|index| found(index, "CUDA", gpu, 9));
        assert_eq!(names(all.collect()).len(), 15);
    }

    #[test]
    fn cards_of_one_back_end_are_taken() {
        use LlamaBackendDeviceType::{Accelerator, Cpu, Gpu, IntegratedGpu};

        assert!(names(vec![found(0, "CPU", Cpu, 9)]).is_empty());
        let blas = found(1, "BLAS", Accelerator, 9);
        let graphics = found(2, "Vulkan", IntegratedGpu, 0);
        assert_eq!(names(vec![blas.clone(), graphics.clone()]), [(2, 7)]);
        let cards = [
            graphics,
            found(3, "CUDA", Gpu, 9),
            found(4, "CUDA", Gpu, 8),
            found(5, "Vulkan", Gpu, 9),
        ];
        assert_eq!(names(cards.to_vec()), [(3, 9), (4, 8)]);
    }

    /// Nothing but a CPU, or whatever there is: it is said without ending the process.
    #[test]
    fn devices_can_be_listed() {
        let is_built = cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal"));
        assert!(is_built || devices(None).is_empty());
    }
}
