//! Products of vectors, in the order of sums that processors like.

/// Sums side by side: additions do not wait for each other, and several are one instruction.
const LANES: usize = 8;

/// The sum of the products, place by place; of what both have.
#[must_use]
pub fn product(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left, right) = (left.chunks_exact(LANES), right.chunks_exact(LANES));
    let rest = left.remainder().iter().zip(right.remainder());
    let rest: f32 = rest.map(|(left, right)| left * right).sum();
    for (left, right) in left.zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_of_the_products() {
        let left: Vec<f32> = (0..21).map(|it| it as f32).collect();
        let right: Vec<f32> = (0..21).map(|it| (it % 5) as f32 - 2.0).collect();
        for length in 0..=left.len() {
            let plain: f32 = left[..length].iter().zip(&right).map(|(x, y)| x * y).sum();
            assert_eq!(
                product(&left[..length], &right[..length]),
                plain,
                "{length}"
            );
        }
    }
}
