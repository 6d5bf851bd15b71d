//! Passes over the numbers of a whole vocabulary, written so that the compiler makes vectors of them:
//! each token of each reply takes them.

const LANES: usize = 16;

/// The greatest that is a number; minus infinity where there is none.
pub(super) fn greatest(numbers: &[f32]) -> f32 {
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane = if *number > *lane { *number } else { *lane };
        }
    }
    let all = lanes.iter().chain(rest).copied();
    all.fold(f32::NEG_INFINITY, f32::max)
}

pub(super) fn sum(numbers: &[f32]) -> f64 {
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [0.0_f64; LANES];
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*number);
        }
    }
    let rest = rest.iter().map(|number| f64::from(*number));
    lanes.iter().sum::<f64>() + rest.sum::<f64>()
}

/// From logits, of which `best` is the greatest, to probabilities up to a factor: `best` becomes 1.
pub(super) fn weigh(logits: &mut [f32], best: f32, temperature: f32) {
    for logit in logits {
        *logit = weight(*logit, best, temperature);
    }
}

#[inline]
pub(super) fn weight(logit: f32, best: f32, temperature: f32) -> f32 {
    exp((logit - best) / temperature)
}

/// e to the power of `x`, which is 0 or less; 0 below -87, where halves of the least number begin.
///
/// As the library's, to 2 parts in 10 million, but of several at once: 2^n times a polynomial of what
/// is left (Cephes, expf.c).
#[inline]
fn exp(x: f32) -> f32 {
    const LEAST: f32 = -87.0;
    /// Added to a number and taken off again, it rounds it; until then the last bits are that number.
    const ROUNDING: f32 = 12_582_912.0;
    const EXPONENT_AT: u32 = 23;
    let within = if x < LEAST { LEAST } else { x };
    let shifted = within * std::f32::consts::LOG2_E + ROUNDING;
    let n = shifted - ROUNDING;
    // ln 2 in two parts, of which the first times `n` is exact.
    let rest = (within - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let mut polynomial = 1.987_569_1e-4;
    for factor in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        polynomial = polynomial * rest + factor;
    }
    let fraction = (polynomial * rest) * rest + rest + 1.0;
    let exponent = shifted.to_bits() << EXPONENT_AT;
    let power = f32::from_bits(exponent.wrapping_add(1.0_f32.to_bits()));
    if x < LEAST { 0.0 } else { fraction * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_the_librarys() {
        for step in 0..870_000 {
            let x = -(step as f32) / 10_000.0;
            let (ours, theirs) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / theirs - 1.0).abs() < 2e-7, "{x}: {ours} {theirs}");
        }
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        for far in [-87.1, -1e9, f32::NEG_INFINITY] {
            assert_eq!(exp(far).to_bits(), 0.0_f32.to_bits(), "{far}");
        }
    }

    #[test]
    fn the_greatest_and_the_sum_are_of_all() {
        for count in [1, 15, 16, 17, 40] {
            for at in 0..count {
                let mut numbers: Vec<f32> = (0..count).map(|n| n as f32 / 8.0).collect();
                let sum_of_all = numbers.iter().sum::<f32>();
                assert_eq!(sum(&numbers).to_bits(), f64::from(sum_of_all).to_bits());
                numbers[at] = 9.0;
                numbers[(at + 1) % count] = if count > 1 { f32::NAN } else { 9.0 };
                assert_eq!(greatest(&numbers).to_bits(), 9.0_f32.to_bits());
            }
        }
        for none in [&[][..], &[f32::NAN; 20]] {
            assert_eq!(greatest(none).to_bits(), f32::NEG_INFINITY.to_bits());
        }
    }
}
