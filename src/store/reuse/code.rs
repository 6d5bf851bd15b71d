//! Vectors as they are kept and compared: 16-bit integers, half the room of floats. A similarity is off
//! by at most about 0.00005, which is less than the encoder's own rounding, so that nothing has to be
//! scored again.

/// What a component of 1 is. Below the largest integer, so that the rounding of a whole vector cannot
/// carry its square over what 32 bits hold.
const UNIT: f32 = 32_000.0;

/// A vector that is shorter says nothing about where it points.
const LENGTH_MIN: f32 = 1e-6;

/// How far a code's length may be from 1 before it was not written here.
const LENGTH_OFF_MAX: f32 = 0.01;

/// Integers that are multiplied and added at one go: the compiler makes wide instructions of a loop of
/// a known length.
const LANES: usize = 64;

/// A vector of length 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code(Box<[i16]>);

impl Code {
    /// `None` for one with a component that is not finite, or of no length to speak of.
    pub fn of(vector: &[f32]) -> Option<Self> {
        let length = vector.iter().map(|it| it * it).sum::<f32>().sqrt();
        // A component that is not finite leaves a length that is not.
        if !length.is_finite() || length < LENGTH_MIN {
            return None;
        }
        let scale = UNIT / length;
        let code = vector.iter().map(|it| {
            // At most UNIT either way, up to rounding.
            (it * scale).round() as i16
        });
        Some(Self(code.collect()))
    }

    /// Reads what [`Code::bytes`] wrote. `None` where nothing was written so.
    pub fn read(bytes: &[u8], dimensions: usize) -> Option<Self> {
        let (pairs, rest) = bytes.as_chunks::<2>();
        if !rest.is_empty() || pairs.len() != dimensions {
            return None;
        }
        let code: Box<[i16]> = pairs.iter().map(|it| i16::from_le_bytes(*it)).collect();
        let square: f64 = code.iter().map(|it| f64::from(*it).powi(2)).sum();
        let is_unit = (square.sqrt() / f64::from(UNIT) - 1.0).abs() < f64::from(LENGTH_OFF_MAX);
        is_unit.then_some(Self(code))
    }

    /// Out of components that a code had.
    pub fn again(components: &[i16]) -> Self {
        Self(components.into())
    }

    /// Little-endian, two bytes a component.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|it| it.to_le_bytes()).collect()
    }

    /// The inside of it.
    pub fn components(&self) -> &[i16] {
        &self.0
    }
}

/// The components of a code as floats.
pub fn floats(code: &[i16]) -> Vec<f32> {
    code.iter().map(|it| f32::from(*it) / UNIT).collect()
}

/// The product of two codes of one length, in no unit: larger is nearer.
pub fn product(left: &[i16], right: &[i16]) -> i32 {
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    let mut sum = 0;
    for (left, right) in left.iter().zip(right) {
        let mut part = 0;
        for at in 0..LANES {
            part += i32::from(left[at]) * i32::from(right[at]);
        }
        sum += part;
    }
    for (left, right) in left_rest.iter().zip(right_rest) {
        sum += i32::from(*left) * i32::from(*right);
    }
    sum
}

/// The cosine that a product of codes stands for.
pub fn cosine(product: i32) -> f32 {
    // 24 bits of 30 are as good as the codes.
    (product as f32 / (UNIT * UNIT)).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_vector_that_points_nowhere_has_no_code() {
        for vector in [
            vec![0.0; 8],
            vec![],
            vec![1e-9; 8],
            vec![1.0, f32::NAN],
            vec![1.0, f32::INFINITY],
            vec![f32::MAX, f32::MAX],
            vec![f32::NEG_INFINITY, f32::INFINITY],
        ] {
            assert_eq!(Code::of(&vector), None, "{vector:?}");
        }
    }

    #[test]
    fn bytes_that_were_not_written_here_are_no_code() {
        let code = Code::of(&[0.6, -0.8]).unwrap();
        let bytes = code.bytes();
        assert_eq!(Code::read(&bytes, 2), Some(code));
        assert_eq!(Code::read(&bytes, 3), None, "another length");
        assert_eq!(Code::read(&bytes[..3], 2), None, "half a component");
        assert_eq!(Code::read(&[0; 4], 2), None, "no direction");
        assert_eq!(Code::read(&[0xff, 0x7f, 0xff, 0x7f], 2), None, "too long");
        assert_eq!(Code::read(&[], 0), None, "nothing");
    }

    #[test]
    fn the_largest_product_fits() {
        // All in one component, and spread so that every one is rounded up.
        for dimensions in [1_usize, 3, 64, 256, 1024, 4096] {
            let code = Code::of(&vec![1.0; dimensions]).unwrap();
            let it = product(code.components(), code.components());
            assert!((cosine(it) - 1.0).abs() < 0.01, "{dimensions}: {it}");
        }
    }

    proptest! {
        #[test]
        fn a_product_is_the_cosine(
            left in proptest::collection::vec(-1.0_f32..1.0, 100),
            right in proptest::collection::vec(-1.0_f32..1.0, 100),
        ) {
            let length = |it: &[f32]| it.iter().map(|it| it * it).sum::<f32>().sqrt();
            let truth = left.iter().zip(&right).map(|(left, right)| left * right).sum::<f32>()
                / (length(&left) * length(&right));
            let (left, right) = (Code::of(&left).unwrap(), Code::of(&right).unwrap());
            let found = cosine(product(left.components(), right.components()));
            prop_assert!((found - truth).abs() < 2e-4, "{found} for {truth}");
            let again = Code::of(&floats(left.components())).unwrap();
            let same = cosine(product(left.components(), again.components()));
            prop_assert!(same > 0.9999);
        }
    }
}
