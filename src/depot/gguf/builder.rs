//! Writes small GGUF files, right or wrong on purpose.

/// A file in the making. Everything is little-endian, version 3.
#[derive(Clone, Debug)]
pub struct Builder {
    keys: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
    pub version: u32,
    pub key_count: Option<u64>,
    pub tensor_count: Option<u64>,
}

pub fn text(value: &str) -> Vec<u8> {
    let mut bytes = (value.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

fn list(kind: u32, count: u64, entries: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(entries);
    bytes
}

impl Builder {
    pub fn empty() -> Self {
        Self {
            keys: Vec::new(),
            tensors: Vec::new(),
            data: Vec::new(),
            version: 3,
            key_count: None,
            tensor_count: None,
        }
    }

    /// The smallest file that passes as a chat model: three tokens of two numbers each.
    pub fn model() -> Self {
        Self::empty()
            .text("general.architecture", "llama")
            .text("general.name", "tiny")
            .whole("llama.context_length", 64)
            .whole("llama.embedding_length", 2)
            .whole("llama.block_count", 1)
            .text("tokenizer.ggml.model", "gpt2")
            .texts("tokenizer.ggml.tokens", &["a", "b", "<|end|>"])
            .whole("tokenizer.ggml.eos_token_id", 2)
            .text("tokenizer.chat_template", "{{ messages }}")
            .tensor("token_embd.weight", &[2, 3], 0, 24)
            .tensor("output_norm.weight", &[2], 0, 8)
    }

    pub fn raw(mut self, key: &str, kind: u32, value: Vec<u8>) -> Self {
        self.keys.retain(|(name, ..)| name != key);
        self.keys.push((key.to_owned(), kind, value));
        self
    }

    /// The same key once more.
    pub fn again(mut self, key: &str, kind: u32, value: Vec<u8>) -> Self {
        self.keys.push((key.to_owned(), kind, value));
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(name, ..)| name != key);
        self
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, text(value))
    }

    pub fn whole(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, value.to_le_bytes().to_vec())
    }

    pub fn real(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, value.to_le_bytes().to_vec())
    }

    pub fn texts(self, key: &str, values: &[&str]) -> Self {
        let entries: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.raw(key, 9, list(8, values.len() as u64, &entries))
    }

    pub fn numbers(self, key: &str, values: &[f32]) -> Self {
        let entries: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.raw(key, 9, list(6, values.len() as u64, &entries))
    }

    /// Adds a tensor where ggml wants it, with `bytes` bytes of data.
    pub fn tensor(self, name: &str, shape: &[u64], kind: u32, bytes: usize) -> Self {
        let offset = self.data.len() as u64;
        self.tensor_at(name, shape, kind, offset, bytes)
    }

    pub fn tensor_at(
        mut self,
        name: &str,
        shape: &[u64],
        kind: u32,
        offset: u64,
        bytes: usize,
    ) -> Self {
        self.tensors.retain(|(known, ..)| known != name);
        self.tensors
            .push((name.to_owned(), shape.to_vec(), kind, offset));
        self.data.resize(self.data.len() + bytes, 0x3c);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self
    }

    pub fn no_tensors(mut self) -> Self {
        self.tensors.clear();
        self.data.clear();
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend_from_slice(&self.version.to_le_bytes());
        let tensors = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        out.extend_from_slice(&tensors.to_le_bytes());
        let keys = self.key_count.unwrap_or(self.keys.len() as u64);
        out.extend_from_slice(&keys.to_le_bytes());
        for (key, kind, value) in &self.keys {
            out.extend(text(key));
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(value);
        }
        for (name, shape, kind, offset) in &self.tensors {
            out.extend(text(name));
            out.extend_from_slice(&(shape.len() as u32).to_le_bytes());
            for length in shape {
                out.extend_from_slice(&length.to_le_bytes());
            }
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend_from_slice(&self.data);
        out
    }
}
