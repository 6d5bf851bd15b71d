//! The tensors' table: shapes, types and places, against the file's size.

use std::collections::BTreeSet;
use std::io::Read;

use super::fault::{GgufFault, GgufProblem, TensorReason, shown};
use super::header::Header;
use super::reader::Reader;

/// ggml's `GGML_MAX_NAME`, less its zero byte.
const NAME_BYTES_MAX: u64 = 63;
/// ggml's `GGML_MAX_DIMS`.
const DIMENSIONS_MAX: u32 = 4;

/// The matrices of a classification head; the second comes last where there are both.
const CLASSES: &str = "cls.weight";
pub(super) const CLASSES_OUT: &str = "cls.output.weight";

const TOKENS_IN: &str = "token_embd.weight";
const TOKENS_OUT: &str = "output.weight";
/// llama.cpp's `LLAMA_MAX_LAYERS`.
const BLOCKS_MAX: usize = 512;

/// ggml's f32.
const F32: u32 = 0;

/// What the table comes to.
pub(super) struct Tensors {
    pub(super) element_count: u64,
    /// Bytes of all weights.
    pub(super) data_bytes: u64,
    /// Of each block's weights, by the number in their names, as far as there are any.
    pub(super) block_bytes: Vec<u64>,
    /// Of what belongs to no block, by whether it comes after them.
    pub(super) output_bytes: u64,
    /// Rows of the token embedding, one per token.
    pub(super) token_rows: Option<u64>,
    /// Rows of the last matrix of a classification head, one per label, and its name.
    pub(super) label_rows: Option<(&'static str, u64)>,
    pub(super) list: Vec<Tensor>,
}

/// The weights outside the blocks.
#[derive(Default)]
struct Output {
    /// All but the token embedding.
    own: u64,
    tokens: u64,
    has_matrix: bool,
}

impl Output {
    fn take(&mut self, tensor: &Tensor) {
        if tensor.name == TOKENS_IN {
            self.tokens = tensor.bytes;
            return;
        }
        self.has_matrix |= tensor.name == TOKENS_OUT;
        self.own = self.own.saturating_add(tensor.bytes);
    }

    /// Without a matrix of its own it is computed with the token embedding's, which then lies in two
    /// places.
    fn bytes(&self) -> u64 {
        if self.has_matrix {
            return self.own;
        }
        self.own.saturating_add(self.tokens)
    }
}

/// The number of the block that a tensor belongs to.
fn block_of_name(name: &str) -> Option<usize> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok().filter(|block| *block < BLOCKS_MAX)
}

fn add(block_bytes: &mut Vec<u64>, block: usize, bytes: u64) {
    if block_bytes.len() <= block {
        block_bytes.resize(block + 1, 0);
    }
    block_bytes[block] = block_bytes[block].saturating_add(bytes);
}

/// One row of the table.
pub(super) struct Tensor {
    pub(super) name: String,
    /// Fastest axis first; 1 for those that it does not have.
    pub(super) shape: [u64; 4],
    /// ggml's number of the element type.
    pub(super) kind: u32,
    bytes: u64,
    offset: u64,
}

/// Reads the whole table and checks that the data it promises is in the file. Tensors must lie one
/// after the other, as ggml demands.
pub(super) fn read_all<R: Read>(
    reader: &mut Reader<R>,
    header: &Header,
) -> Result<Tensors, GgufFault> {
    let alignment = header.alignment(reader)?;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut places = Vec::new();
    let mut element_count = 0_u64;
    let mut data_bytes = 0_u64;
    let mut block_bytes = Vec::new();
    let mut output = Output::default();
    let mut token_rows = None;
    let mut label_rows = None;
    for _ in 0..header.tensor_count {
        let tensor = read_one(reader)?;
        element_count = element_count.saturating_add(tensor.shape.iter().product());
        data_bytes = data_bytes.saturating_add(tensor.bytes);
        match block_of_name(&tensor.name) {
            Some(block) => add(&mut block_bytes, block, tensor.bytes),
            None => output.take(&tensor),
        }
        let rows = tensor.shape[1];
        match tensor.name.as_str() {
            TOKENS_IN => token_rows = Some(rows),
            CLASSES_OUT => label_rows = Some((CLASSES_OUT, rows)),
            CLASSES => label_rows = label_rows.or(Some((CLASSES, rows))),
            _ => {}
        }
        if !seen.insert(tensor.name.clone()) {
            return Err(reader.fault(GgufProblem::Twice(shown(&tensor.name))));
        }
        places.push(tensor);
    }
    check_places(reader, &places, alignment)?;
    Ok(Tensors {
        element_count,
        data_bytes,
        block_bytes,
        output_bytes: output.bytes(),
        token_rows,
        label_rows,
        list: places,
    })
}

fn fault<R: Read>(reader: &Reader<R>, name: &str, reason: TensorReason) -> GgufFault {
    reader.fault(GgufProblem::Tensor {
        name: shown(name),
        reason,
    })
}

fn read_one<R: Read>(reader: &mut Reader<R>) -> Result<Tensor, GgufFault> {
    let name = reader.text("a tensor's name", NAME_BYTES_MAX)?;
    let dimensions = reader.u32("a tensor's dimensions")?;
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        let reason = TensorReason::Dimensions(dimensions);
        return Err(fault(reader, &name, reason));
    }
    let mut shape = [1_u64; DIMENSIONS_MAX as usize];
    for length in shape.iter_mut().take(dimensions as usize) {
        *length = reader.u64("a tensor's shape")?;
    }
    let kind = reader.u32("a tensor's type")?;
    let offset = reader.u64("a tensor's offset")?;
    let Some((block, block_bytes)) = block_of(kind) else {
        return Err(fault(reader, &name, TensorReason::Type(kind)));
    };
    if !is_computable(&name, kind) {
        return Err(fault(reader, &name, TensorReason::Role(kind)));
    }
    let elements = shape
        .iter()
        .try_fold(1_u64, |product, length| product.checked_mul(*length))
        .filter(|elements| (1..=i64::MAX.unsigned_abs()).contains(elements));
    let Some(elements) = elements else {
        return Err(fault(reader, &name, TensorReason::Shape));
    };
    if shape[0] % block != 0 {
        let row = shape[0];
        return Err(fault(reader, &name, TensorReason::Row { row, block }));
    }
    let Some(bytes) = (elements / block).checked_mul(block_bytes) else {
        return Err(fault(reader, &name, TensorReason::Shape));
    };
    Ok(Tensor {
        name,
        shape,
        kind,
        bytes,
        offset,
    })
}

fn check_places<R: Read>(
    reader: &Reader<R>,
    places: &[Tensor],
    alignment: u64,
) -> Result<(), GgufFault> {
    let start = reader.at().next_multiple_of(alignment);
    let mut expected = 0_u64;
    for tensor in places {
        let name = &tensor.name;
        let offset = tensor.offset;
        if offset != expected {
            return Err(fault(
                reader,
                name,
                TensorReason::Offset { offset, expected },
            ));
        }
        let file_end = offset
            .checked_add(tensor.bytes)
            .and_then(|end| end.checked_add(start));
        let next =
            file_end.and_then(|_| (offset + tensor.bytes).checked_next_multiple_of(alignment));
        let (Some(file_end), Some(next)) = (file_end, next) else {
            return Err(fault(reader, name, TensorReason::Shape));
        };
        if file_end > reader.bytes() {
            let missing = file_end - reader.bytes();
            return Err(fault(reader, name, TensorReason::PastEnd { missing }));
        }
        expected = next;
    }
    Ok(())
}

/// False for a tensor of a common role whose type no kernel takes in that role: ggml finds out while
/// computing, and ends the process.
fn is_computable(name: &str, kind: u32) -> bool {
    /// Multiplied by rows of numbers. In a block, the name has its number before.
    const MATRICES: [&str; 14] = [
        "cls",
        "cls.output",
        "position_embd",
        "token_embd",
        "output",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_qkv",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "ffn_gate_up",
    ];
    // Whole numbers, f64, and the two that only ever hold a step's own results.
    let is_no_weight = matches!(kind, 9 | 15 | 24..=28);
    let own = match name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
    {
        Some((_, own)) => own,
        None => name,
    };
    // The types are added to the tokens' vectors as they are.
    if own.ends_with("norm.weight")
        || own == "token_types.weight"
        || own.ends_with(".bias")
        || own.starts_with("rope_f")
    {
        return kind == F32;
    }
    let stem = own.strip_suffix(".weight");
    !(is_no_weight && stem.is_some_and(|stem| MATRICES.contains(&stem)))
}

/// Elements and bytes of a block, by ggml's type number. `None` for types that were removed or came
/// after the pinned version.
fn block_of(kind: u32) -> Option<(u64, u64)> {
    let block = match kind {
        0 => (1, 4),       // f32
        1 => (1, 2),       // f16
        2 => (32, 18),     // q4_0
        3 => (32, 20),     // q4_1
        6 => (32, 22),     // q5_0
        7 => (32, 24),     // q5_1
        8 => (32, 34),     // q8_0
        9 => (32, 36),     // q8_1
        10 => (256, 84),   // q2_K
        11 => (256, 110),  // q3_K
        12 => (256, 144),  // q4_K
        13 => (256, 176),  // q5_K
        14 => (256, 210),  // q6_K
        15 => (256, 292),  // q8_K
        16 => (256, 66),   // iq2_xxs
        17 => (256, 74),   // iq2_xs
        18 => (256, 98),   // iq3_xxs
        19 => (256, 50),   // iq1_s
        20 => (32, 18),    // iq4_nl
        21 => (256, 110),  // iq3_s
        22 => (256, 82),   // iq2_s
        23 => (256, 136),  // iq4_xs
        24 => (1, 1),      // i8
        25 => (1, 2),      // i16
        26 => (1, 4),      // i32
        27 | 28 => (1, 8), // i64, f64
        29 => (256, 56),   // iq1_m
        30 => (1, 2),      // bf16
        34 => (256, 54),   // tq1_0
        35 => (256, 66),   // tq2_0
        39 => (32, 17),    // mxfp4
        40 => (64, 36),    // nvfp4
        41 => (128, 18),   // q1_0
        42 => (64, 18),    // q2_0
        _ => return None,
    };
    Some(block)
}
