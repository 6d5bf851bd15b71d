//! Replies with drafts are those without, and come in fewer steps where they copy.

use domain::{ChatEvent, OutputFormat};

use super::*;
use crate::draft::Price;
use crate::fake::{END, babble, request};
use crate::grammar::Grammars;
use crate::queue::DraftCount;

/// Every draft is worth its price.
pub(super) const FREE: Drafting = Drafting::Priced(Price {
    row: 0.0,
    switch: 0.0,
});
const LONG: Shape = Shape {
    sequences: 2,
    kv_tokens: 2_048,
    batch_tokens: 128,
    context_tokens: 1_024,
};

fn counted(bench: &Bench) -> DraftCount {
    bench.shared.pulse.drafts()
}

/// The bench after one chat, what was said, and the steps that took.
fn run(
    drafting: Drafting,
    prompt: &str,
    change: impl FnOnce(&mut Request),
    script: impl FnOnce(&mut FakeDecoder),
) -> (Bench, Read, usize) {
    let mut bench = Bench::drafting(LONG, drafting, script);
    let mut stream = bench.ask_with(prompt, change);
    let steps = bench.run();
    let read = read(&mut stream);
    (bench, read, steps)
}

const TEXT: &str = "The quick brown fox jumps over the lazy dog, again and once more.";

#[test]
fn a_reply_that_copies_takes_few_steps() {
    let prompt = format!("{TEXT}>");
    let (bench, drafted, steps) = run(FREE, &prompt, |_| (), |_| ());
    let (_, plain, plain_steps) = run(Drafting::Off, &prompt, |_| (), |_| ());
    assert_eq!(drafted, plain);
    assert_eq!(drafted.text, TEXT);
    assert!(steps * 5 < plain_steps, "{steps} of {plain_steps}");
    let count = counted(&bench);
    assert!(count.accepted > 50 && count.drafted < 100, "{count:?}");
}

/// Seen: a draw that failed within a draft took what the same step had drawn before it along.
#[test]
fn what_was_drawn_before_a_failure_is_said() {
    let broken = |decoder: &mut FakeDecoder| {
        decoder.noise = |tokens| {
            let number = if tokens.len() == 2 * TEXT.len() - 8 {
                f32::NAN
            } else {
                0.0
            };
            vec![number; 258]
        };
    };
    let prompt = format!("{TEXT}>");
    let (_, drafted, _) = run(FREE, &prompt, |_| (), broken);
    let (_, plain, _) = run(Drafting::Off, &prompt, |_| (), broken);
    assert_eq!(plain.text, TEXT[..TEXT.len() - 9]);
    assert!(plain.error.is_some());
    assert_eq!(drafted, plain);
}

#[test]
fn a_draft_ends_where_the_reply_does() {
    type Change = fn(&mut Request);
    let cases: [(Change, &str, FinishReason); 4] = [
        (|_| (), TEXT, FinishReason::Stop),
        (|r| r.output_max = 23, &TEXT[..23], FinishReason::Length),
        (|r| r.output_max = 1, &TEXT[..1], FinishReason::Length),
        (
            |r| r.rules.stops = vec!["lazy".into()],
            "The quick brown fox jumps over the ",
            FinishReason::Stop,
        ),
    ];
    for (change, said, reason) in cases {
        let (mut bench, read, _) = run(FREE, &format!("{TEXT}>"), change, |_| ());
        assert_eq!((read.text.as_str(), read.reason), (said, Some(reason)));
        let (_, plain, _) = run(Drafting::Off, &format!("{TEXT}>"), change, |_| ());
        assert_eq!(read.usage, plain.usage, "nothing beyond the end is counted");
        // The cache has what the slot says, or the next chat there would leave a gap.
        let mut next = bench.ask(&format!("{TEXT}>{said} and>"));
        bench.run();
        assert!(has_ended(&mut next));
    }
}

/// Says its prompt three times, but now and then something else instead.
fn faltering(decoder: &mut FakeDecoder) {
    decoder.script = Box::new(|tokens| {
        let mark = tokens.iter().position(|token| *token == i32::from(b'>'));
        let mark = mark.map_or(0, |mark| mark + 1);
        let said = tokens.len() - mark;
        match said {
            _ if said >= 3 * mark => END,
            _ if said % 19 == 18 => i32::from(b'#'),
            _ => tokens[said % mark],
        }
    });
}

#[test]
fn wrong_drafts_are_cut_off_and_change_nothing() {
    for text in ["short>", &format!("{TEXT}>")] {
        let (bench, drafted, steps) = run(FREE, text, |_| (), faltering);
        let (_, plain, plain_steps) = run(Drafting::Off, text, |_| (), faltering);
        assert_eq!(drafted, plain);
        assert!(steps < plain_steps);
        let count = counted(&bench);
        assert!(count.accepted < count.drafted, "{count:?}");
    }
}

#[test]
fn a_prediction_is_followed_left_and_found_again() {
    let text = TEXT.replace("brown", "white").replace("lazy ", "");
    let predicted = |text: &str| text.bytes().map(i32::from).collect::<Vec<_>>();
    let script = |text: String| {
        move |decoder: &mut FakeDecoder| {
            decoder.script = Box::new(move |tokens| {
                let said = text.as_bytes().get(tokens.len() - 3);
                said.map_or(END, |byte| i32::from(*byte))
            });
        }
    };
    let change = |request: &mut Request| request.prediction = predicted(TEXT);
    let (bench, drafted, steps) = run(FREE, "go>", change, script(text.clone()));
    let (_, plain, plain_steps) = run(Drafting::Off, "go>", change, script(text.clone()));
    assert_eq!(
        (drafted.text.as_str(), &drafted.text),
        (text.as_str(), &plain.text)
    );
    assert!(steps * 2 < plain_steps, "{steps} of {plain_steps}");
    let usage = drafted.usage;
    assert!(usage.accepted_prediction_tokens.0 > 40, "{usage:?}");
    assert!(usage.rejected_prediction_tokens.0 > 0, "{usage:?}");
    assert!(u64::from(usage.accepted_prediction_tokens.0) <= counted(&bench).accepted);
    assert_eq!(plain.usage.accepted_prediction_tokens.0, 0);
    assert_eq!(usage.completion_tokens, plain.usage.completion_tokens);
}

#[test]
fn a_format_holds_in_drafts_and_gives_the_same_reply() {
    let grammar = || {
        let grammars = Grammars::new(&FakeVocabulary::default()).unwrap();
        let asked = request("x", |request| request.format = OutputFormat::JsonObject);
        grammars.grammar(None, &asked).unwrap()
    };
    let mut taken = 0;
    for seed in 0..8 {
        let sampling = Sampling {
            temperature: Some(1.0),
            seed: Some(seed),
            ..Sampling::default()
        };
        let change = |request: &mut Request| {
            request.grammar = grammar();
            request.sampler = Sampler::new(&sampling, 0.0, 0);
            request.output_max = 200;
        };
        let script = |decoder: &mut FakeDecoder| decoder.noise = babble;
        let (_, plain, _) = run(Drafting::Off, "say>", change, script);
        for wrong in [None, Some(3)] {
            let mut predicted: Vec<i32> = plain.text.bytes().map(i32::from).collect();
            predicted.extend([i32::from(b'x'); 9]);
            if let Some(at) = wrong {
                predicted.insert(at, i32::from(b'!'));
            }
            let with = |request: &mut Request| {
                change(request);
                request.prediction = predicted;
            };
            let (bench, drafted, _) = run(FREE, "say>", with, script);
            assert_eq!((&drafted.text, drafted.reason), (&plain.text, plain.reason));
            taken += counted(&bench).accepted;
        }
    }
    assert!(taken > 0, "no draft was ever right");
}

#[test]
fn a_memory_that_cannot_be_cut_gets_no_drafts() {
    let (bench, read, _) = run(
        FREE,
        &format!("{TEXT}>"),
        |_| (),
        |decoder| decoder.is_recurrent = true,
    );
    assert_eq!(read.text, TEXT);
    assert_eq!(counted(&bench), DraftCount::default());
}

/// The drafts in the last batch for `sequence`.
fn drafted(bench: &Bench, sequence: u32) -> usize {
    bench.last().count(sequence).saturating_sub(1)
}

/// Steps until something is drafted for the one chat.
fn run_until_drafting(bench: &mut Bench) {
    bench.run_until_talking();
    for _ in 0..20 {
        bench.step();
        if drafted(bench, 0) > 0 {
            return;
        }
    }
    panic!("nothing is drafted");
}

#[test]
fn drafts_share_their_room_and_leave_prompts_theirs() {
    let mut bench = Bench::drafting(LONG, FREE, |_| ());
    let texts: Vec<String> = [b'a', b'b']
        .map(|first| (0..200).map(|n| char::from(first + n % 25)).collect())
        .into();
    let mut streams: Vec<_> = texts
        .iter()
        .map(|text| bench.ask(&format!("{text}>")))
        .collect();
    let mut most = [0, 0];
    for _ in 0..40 {
        let are_talking = bench.scheduler.slots.iter().all(|slot| slot.pending() == 1);
        bench.step();
        if are_talking {
            most = [0, 1].map(|at| most[at].max(drafted(&bench, at as u32)));
        }
    }
    assert_eq!(most, [8, 8]);
    bench.run();
    for (stream, text) in streams.iter_mut().zip(&texts) {
        assert_said(stream, text);
    }

    // No more than an eighth of a batch, and a prompt beside gets what it always gets.
    let mut bench = Bench::drafting(SHAPE, FREE, |_| ());
    let _copying = bench.ask(&format!("{TEXT}>"));
    run_until_drafting(&mut bench);
    let _reading = bench.ask(&"x".repeat(150));
    for _ in 0..3 {
        bench.step();
        assert_eq!(bench.last().count(1), 16);
        assert!(drafted(&bench, 0) <= 8);
    }
}

#[test]
fn drafts_take_no_room_from_anybody() {
    let shape = Shape {
        sequences: 2,
        kv_tokens: 180,
        batch_tokens: 64,
        context_tokens: 150,
    };
    let mut bench = Bench::drafting(shape, FREE, |_| ());
    let mut first = bench.ask(&format!("{TEXT}>"));
    bench.run();
    assert_said(&mut first, TEXT);
    // What it left in the cache stays until somebody's own tokens need the room.
    let mut second = bench.ask("other words to say>");
    while bench.step() == Pace::Busy {
        assert!(bench.scheduler.slots.iter().any(|slot| slot.held > 100));
    }
    assert_said(&mut second, "other words to say");
}

#[test]
fn a_batch_cut_short_in_its_drafts_is_computed_again() {
    let text = TEXT.repeat(3);
    let mut bench = Bench::drafting(LONG, FREE, |_| ());
    let mut stream = bench.ask(&format!("{text}>"));
    run_until_drafting(&mut bench);
    for entries in [0, 1, 3, 6] {
        let interrupt = Arc::clone(&bench.shared.interrupt);
        bench.mishap(Mishap::At(entries, Box::new(move || interrupt.raise())));
        bench.step();
        assert_eq!(bench.last().decoded, Decoded::Aborted);
        bench.step();
    }
    bench.run();
    assert_said(&mut stream, &text);
}

#[test]
fn without_room_for_drafts_the_next_step_has_none() {
    let mut bench = Bench::drafting(LONG, FREE, |_| ());
    let mut stream = bench.ask(&format!("{TEXT}>"));
    run_until_drafting(&mut bench);
    bench.mishap(Mishap::NoRoom);
    bench.step();
    assert!(drafted(&bench, 0) > 0);
    bench.step();
    assert_eq!(drafted(&bench, 0), 0);
    bench.run();
    assert_said(&mut stream, TEXT);
}

#[test]
fn a_drafted_step_is_one_event_and_a_slow_reader_pauses_it() {
    let mut bench = Bench::drafting(LONG, FREE, |_| ());
    bench.events_max = 2;
    let mut stream = bench.ask(&format!("{TEXT}>"));
    let mut pieces = Vec::new();
    let mut has_ended = false;
    for _ in 0..400 {
        bench.step();
        while let Some(Some(Ok(event))) = stream.next().now_or_never() {
            has_ended |= matches!(event, ChatEvent::Usage(_));
            if let ChatEvent::Text { text, .. } = event {
                pieces.push(text);
            }
        }
    }
    assert!(has_ended);
    assert_eq!(pieces.concat(), TEXT);
    assert!(pieces.iter().any(|piece| piece.len() > 8), "{pieces:?}");
}

/// Copies from `back` tokens before, mostly, in a small alphabet.
fn wandering(seed: u64, back: usize) -> impl FnOnce(&mut FakeDecoder) {
    move |decoder: &mut FakeDecoder| {
        decoder.noise = babble;
        decoder.script = Box::new(move |tokens| {
            let mixed = (tokens.len() as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
            let copied = tokens.len().checked_sub(back).map(|at| tokens[at]);
            match copied {
                _ if mixed.is_multiple_of(97) => END,
                Some(copied) if copied < END && !mixed.is_multiple_of(8) => copied,
                _ => i32::from(b'a') + i32::try_from(mixed % 5).unwrap(),
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Greedy or drawn, penalised or not, stopped anywhere: text, end and usage are those without.
    #[test]
    fn drafts_change_nothing(
        prompt in "[a-e]{1,40}",
        seed in any::<u64>(),
        back in 1_usize..30,
        temperature in prop::sample::select(vec![0.0_f32, 0.7, 3.0]),
        penalty in prop::sample::select(vec![0.0_f32, 0.4]),
        stops in prop::collection::vec("[a-e]{2,4}", 0..2),
        output_max in 1_u32..200,
        row in prop::sample::select(vec![0.0, 0.05, 0.3]),
    ) {
        let sampling = Sampling {
            temperature: Some(temperature),
            frequency_penalty: Some(penalty),
            seed: Some(seed.cast_signed()),
            ..Sampling::default()
        };
        let change = |request: &mut Request| {
            request.sampler = Sampler::new(&sampling, 0.0, 0);
            request.rules.stops = stops.clone();
            request.output_max = output_max;
        };
        let priced = Drafting::Priced(Price { row, switch: row });
        let (_, drafted, _) = run(priced, &prompt, change, wandering(seed, back));
        let (_, plain, _) = run(Drafting::Off, &prompt, change, wandering(seed, back));
        prop_assert_eq!(drafted, plain);
    }
}
