//! Images whose tokens must be computed at one go.

use super::*;

/// As [`FakeDecoder::looks_ahead`] has it.
const IMAGE: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

fn prompt(before: usize, after: usize) -> String {
    format!("{}{IMAGE}{}>", "x".repeat(before), "y".repeat(after))
}

/// Each batch has all of a sequence's image or nothing of it.
fn check_whole(bench: &Bench) {
    for computed in bench.log.lock().unwrap().iter() {
        for sequence in 0..SHAPE.sequences {
            let own = computed.batch.iter().filter(|it| it.sequence == sequence);
            let letters: String = own
                .filter_map(|entry| char::from_u32(entry.token.cast_unsigned()))
                .filter(char::is_ascii_uppercase)
                .collect();
            assert!(letters.is_empty() || letters == IMAGE, "{letters}");
        }
    }
}

#[test]
fn an_image_that_looks_ahead_is_never_cut_apart() {
    // In the way of slices of 16, of batches of 64, and of others' room.
    let tight = Shape {
        kv_tokens: 256,
        ..SHAPE
    };
    for shape in [SHAPE, tight] {
        for before in 4..90 {
            let mut bench = Bench::with(shape, |decoder| decoder.looks_ahead = true);
            let mut streams = vec![bench.ask("a long answer while the others read>")];
            bench.run_until_talking();
            for prompt in [prompt(before, 9), prompt(before / 2 + 4, 40), prompt(5, 0)] {
                streams.push(bench.ask_with(&prompt, |request| request.output_max = 3));
            }
            bench.run();
            for stream in &mut streams[1..] {
                let read = read(stream);
                assert_eq!((read.text.as_str(), read.error), ("xxx", None), "{before}");
            }
            check_whole(&bench);
        }
    }
}
