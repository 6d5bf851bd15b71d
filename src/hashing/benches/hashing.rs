//! What a digest costs: `cargo bench -p hashing`.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use hashing::HmacKey;

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [40, 600, 1 << 20];

#[divan::bench(args = SIZES)]
fn sha256(bencher: Bencher<'_, '_>, bytes: usize) {
    let bytes = vec![7; bytes];
    bencher
        .counter(BytesCount::of_slice(&bytes))
        .bench(|| hashing::sha256(black_box(&bytes)));
}

#[divan::bench(args = SIZES)]
fn hmac(bencher: Bencher<'_, '_>, bytes: usize) {
    let (key, bytes) = (HmacKey::new(&[3; 32]), vec![7; bytes]);
    bencher
        .counter(BytesCount::of_slice(&bytes))
        .bench(|| key.sign(black_box(&bytes)));
}
