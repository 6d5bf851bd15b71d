//! What each engine says of itself: that it is well, and how many requests it has.
//!
//! Names and paths as in the engines' own pages, read in November 2026: vLLM "Production Metrics",
//! llama.cpp `tools/server/README.md`, SGLang "Production Metrics", Ollama "API". Ollama reports no
//! load; of the others llama-server and SGLang report it only where they are told to (`--metrics`,
//! `--enable-metrics`), and without it the pool's own count is all there is.

use super::EngineKind;

/// Longest report read; vLLM's, with all its histograms, comes to about a tenth of it.
pub(crate) const REPORT_BYTES_MAX: usize = 1 << 20;

impl EngineKind {
    pub const ALL: [EngineKind; 4] = [
        EngineKind::Vllm,
        EngineKind::LlamaServer,
        EngineKind::Ollama,
        EngineKind::Sglang,
    ];

    /// As the configuration names it.
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            EngineKind::Vllm => "vllm",
            EngineKind::LlamaServer => "llama-server",
            EngineKind::Ollama => "ollama",
            EngineKind::Sglang => "sglang",
        }
    }

    /// Answers with success once the engine can serve, beside `/v1`.
    pub(crate) fn health_path(self) -> &'static str {
        match self {
            EngineKind::Vllm | EngineKind::LlamaServer | EngineKind::Sglang => "/health",
            EngineKind::Ollama => "/api/version",
        }
    }

    /// Prometheus text, beside `/v1`.
    pub(crate) fn report_path(self) -> Option<&'static str> {
        match self {
            EngineKind::Vllm | EngineKind::LlamaServer | EngineKind::Sglang => Some("/metrics"),
            EngineKind::Ollama => None,
        }
    }

    /// The gauges of requests that run and that wait.
    fn gauges(self) -> &'static [&'static str] {
        match self {
            EngineKind::Vllm => &["vllm:num_requests_running", "vllm:num_requests_waiting"],
            EngineKind::LlamaServer => {
                &["llamacpp:requests_processing", "llamacpp:requests_deferred"]
            }
            EngineKind::Sglang => &["sglang:num_running_reqs", "sglang:num_queue_reqs"],
            EngineKind::Ollama => &[],
        }
    }

    /// Requests that run and wait, summed over all label sets; `None` when the text has no such
    /// gauge.
    pub(crate) fn load_in(self, report: &str) -> Option<u32> {
        let values = report.lines().filter_map(|line| {
            let named =
                |name: &&str| Some(line.strip_prefix(name)?).filter(|rest| is_after_name(rest));
            let rest = self.gauges().iter().find_map(named)?;
            // A label's text may hold anything, a value none of it.
            let value = rest.rsplit_once('}').map_or(rest, |(_, value)| value);
            let value: f64 = value.split_whitespace().next()?.parse().ok()?;
            (value.is_finite() && value >= 0.0).then_some(value)
        });
        values
            .reduce(|sum, value| sum + value)
            .map(|sum| sum.min(f64::from(u32::MAX)) as u32)
    }
}

fn is_after_name(rest: &str) -> bool {
    rest.starts_with(['{', ' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engines_report_is_understood() {
        let vllm = "# HELP vllm:num_requests_running Number of requests.\n\
            # TYPE vllm:num_requests_running gauge\n\
            vllm:num_requests_running{engine=\"0\",model_name=\"a}b\"} 3.0\n\
            vllm:num_requests_running{engine=\"1\",model_name=\"a\"} 2.0 1700000000000\n\
            vllm:num_requests_waiting{engine=\"0\",model_name=\"a\"} 1.0\n\
            vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 40.0\n";
        let llama = "llamacpp:requests_processing 4\nllamacpp:requests_deferred 2\n\
            llamacpp:n_decode_total 9000\n";
        let sglang = "sglang:num_running_reqs{model_name=\"m\"} 162.0\n\
            sglang:num_queue_reqs{model_name=\"m\"} 2826.0\n";
        let cases = [
            (EngineKind::Vllm, vllm, Some(6)),
            (EngineKind::LlamaServer, llama, Some(6)),
            (EngineKind::Sglang, sglang, Some(2988)),
            (EngineKind::Ollama, vllm, None),
            (EngineKind::Vllm, "", None),
            (EngineKind::Vllm, "vllm:num_requests_running NaN", None),
            (EngineKind::Vllm, "vllm:num_requests_running -4", None),
            (
                EngineKind::Vllm,
                "vllm:num_requests_running 1e300",
                Some(u32::MAX),
            ),
            (EngineKind::Vllm, "vllm:num_requests_running{", None),
        ];
        for (kind, report, wanted) in cases {
            assert_eq!(kind.load_in(report), wanted, "{kind:?} {report}");
        }
    }
}
