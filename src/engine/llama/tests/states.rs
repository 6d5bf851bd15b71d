//! States of sequences, saved and restored by llama.cpp.

use super::*;

const SHAPE: Shape = Shape {
    sequences: 2,
    kv_tokens: 512,
    batch_tokens: 64,
    context_tokens: 256,
};

fn context(model: &Arc<llama_cpp_2::model::LlamaModel>) -> Context {
    context_of(model, CellLayout::Unified)
}

fn context_of(model: &Arc<llama_cpp_2::model::LlamaModel>, cells: CellLayout) -> Context {
    let sizes = Sizes {
        flash: match cells {
            CellLayout::Unified => FlashAttention::Auto,
            CellLayout::Split => FlashAttention::Off,
        },
        type_k: KvType::F16,
        type_v: KvType::F16,
        cells,
        is_on_cpu: true,
        shape: SHAPE,
        ubatch_tokens: 64,
        threads: ONE_THREAD,
    };
    Context::new(Arc::clone(model), sizes, Arc::default(), None).unwrap()
}

/// Computes `tokens` of `sequence` from position `from` on, and gives the logits after the last.
fn compute(context: &mut Context, sequence: u32, from: u32, tokens: &[i32]) -> Vec<f32> {
    let mut rows = Vec::new();
    let mut position = from;
    for piece in tokens.chunks(SHAPE.batch_tokens as usize) {
        let entries: Vec<Entry> = (position..)
            .zip(piece)
            .enumerate()
            .map(|(index, (position, token))| Entry {
                token: *token,
                position,
                sequence,
                wants_logits: index + 1 == piece.len(),
            })
            .collect();
        assert_eq!(context.decode(&entries), Decoded::Done);
        rows = context.logits(piece.len() - 1).unwrap().to_vec();
        position += piece.len() as u32;
    }
    rows
}

/// The most that two rows of logits differ.
fn apart(one: &[f32], other: &[f32]) -> f32 {
    let apart = one.iter().zip(other).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

#[test]
fn a_restored_state_goes_on_as_the_computed_one_does() {
    let Some(path) = model_path() else { return };
    let model = crate::llama::open::tests_model(&path);
    let tokens: Vec<i32> = (0..120).map(|n| 5 + n * 7 % 500).collect();
    let (mut first, mut second) = (context(&model), context(&model));
    compute(&mut first, 0, 0, &tokens[..100]);
    let state = first.state(0).unwrap();
    assert_eq!(state.len(), first.state_bytes(0));
    let computed = compute(&mut first, 0, 100, &tokens[100..]);

    assert!(second.set_state(0, &state));
    assert_eq!((second.held(0), second.first(0)), (100, Some(0)));
    let restored = compute(&mut second, 0, 100, &tokens[100..]);
    assert!(
        apart(&restored, &computed) < 1e-4,
        "to the bit, but for threads"
    );

    // Where cells or batches lie otherwise, sums round otherwise; that is far less than what
    // another beginning makes of it.
    assert!(second.remove(0, 0));
    compute(&mut second, 0, 0, &tokens[1..101]);
    let another = compute(&mut second, 0, 100, &tokens[100..]);
    let alike = apart(&another, &computed) / 4.0;
    // Into another sequence, beside one in use.
    assert!(second.set_state(1, &state));
    let beside = compute(&mut second, 1, 100, &tokens[100..]);
    assert!(apart(&beside, &computed) < alike, "{alike}");
    // Cut, and its rest computed anew.
    assert!(second.remove(1, 60));
    let cut = compute(&mut second, 1, 60, &tokens[60..]);
    assert!(apart(&cut, &computed) < alike, "{alike}");
    // In the place of what a sequence holds.
    assert!(second.set_state(0, &state));
    assert_eq!(second.held(0), 100);
}

#[test]
fn a_beginning_is_given_to_another_sequence_in_either_layout_of_cells() {
    let Some(path) = model_path() else { return };
    let model = crate::llama::open::tests_model(&path);
    let tokens: Vec<i32> = (0..120).map(|n| 5 + n * 7 % 500).collect();
    for cells in [CellLayout::Unified, CellLayout::Split] {
        let mut alone = context_of(&model, cells);
        compute(&mut alone, 0, 0, &tokens[..100]);
        let computed = compute(&mut alone, 0, 100, &tokens[100..]);
        assert!(alone.remove(0, 0));
        compute(&mut alone, 0, 0, &tokens[1..101]);
        let another = compute(&mut alone, 0, 100, &tokens[100..]);
        let alike = apart(&another, &computed) / 4.0;

        let mut context = context_of(&model, cells);
        compute(&mut context, 0, 0, &tokens[..100]);
        assert!(context.copy(0, 1, 60));
        assert_eq!((context.held(0), context.held(1)), (100, 60), "{cells:?}");
        let shared = compute(&mut context, 1, 60, &tokens[60..]);
        assert!(apart(&shared, &computed) < alike, "{cells:?}");
        // Whoever it came from goes on as if nothing had been.
        let donor = compute(&mut context, 0, 100, &tokens[100..]);
        assert!(apart(&donor, &computed) < alike, "{cells:?}");
    }
}

/// Sequences are computed in their order where each has cells of its own, whatever the order in the
/// batch.
#[test]
fn logits_are_those_of_the_entry_that_is_asked_for() {
    let Some(path) = model_path() else { return };
    let model = crate::llama::open::tests_model(&path);
    let token = |sequence: u32| 40 + 30 * sequence.cast_signed();
    for cells in [CellLayout::Unified, CellLayout::Split] {
        let mut apart_each = context_of(&model, cells);
        let alone =
            [0, 1].map(|sequence| compute(&mut apart_each, sequence, 0, &[token(sequence)]));
        let far = apart(&alone[0], &alone[1]) / 4.0;
        let mut context = context_of(&model, cells);
        let entries = [1, 0].map(|sequence| Entry {
            token: token(sequence),
            position: 0,
            sequence,
            wants_logits: true,
        });
        assert_eq!(context.decode(&entries), Decoded::Done);
        for (index, entry) in entries.iter().enumerate() {
            let row = context.logits(index).unwrap();
            let expected = &alone[entry.sequence as usize];
            assert!(apart(row, expected) < far, "{cells:?}, {index}");
        }
    }
}

/// Seen: with a window of 512, the first 1,000 tokens of 1,200 were shared by a copy whose layers
/// with a window began at 688.
#[test]
fn a_copy_that_lacks_what_a_beginning_looks_back_at_is_none() {
    for (held, count, window, is_whole) in [
        (1_200, 1_000, 0, true),
        (1_200, 1_000, 512, false),
        (1_000, 1_000, 512, true),
        (512, 300, 512, true),
        (513, 300, 512, false),
        // Not there yet.
        (100, 300, 512, true),
        (100, 1_000, 512, false),
    ] {
        let said = crate::llama::decoder::copies_whole(held, count, window);
        assert_eq!(said, is_whole, "{count} of {held}, {window}");
    }
}

#[test]
fn bytes_that_are_no_state_are_refused_and_leave_nothing() {
    let Some(path) = model_path() else { return };
    let model = crate::llama::open::tests_model(&path);
    let mut context = context(&model);
    let tokens: Vec<i32> = (0..100).map(|n| 5 + n).collect();
    compute(&mut context, 0, 0, &tokens);
    let state = context.state(0).unwrap();
    let longer = [state.clone(), vec![0; 8]].concat();
    let another = {
        let mut bytes = state.clone();
        bytes[0] ^= 1;
        bytes
    };
    let halves = [&[][..], &state[..6], &state[..state.len() / 2]];
    for bytes in halves.into_iter().chain([&longer[..], &another[..]]) {
        assert!(!context.set_state(1, bytes), "{} bytes", bytes.len());
        assert_eq!(context.held(1), 0);
    }
    assert!(!context.set_state(2, &state) && context.state(2).is_none());
    assert!(context.set_state(1, &state));
}

#[tokio::test]
async fn after_a_restart_the_text_is_the_same_and_only_the_tail_computed() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |config: &mut EngineConfig| config.prefix_dir = Some(folder.path().to_owned());
    let system = "You are a helpful assistant. Answer in one sentence. ".repeat(12);
    let asked = |question: &str| {
        request(question, |request| {
            let first = domain::Message::new(domain::Role::System, system.clone());
            request.messages.insert(0, first);
        })
    };
    let mut replies = Vec::new();
    // The same again, then another question; by a team that has asked nothing before.
    for (question, team) in [
        (QUESTION, None),
        (QUESTION, None),
        ("currency of Norway", None),
        (QUESTION, Some("red")),
    ] {
        let Some((engine, driver)) = load(kept) else {
            return;
        };
        let mut call = sealed(asked(question));
        if let Some(team) = team {
            call = call.for_team(team.into());
        }
        let reply = collect(engine.chat(call).await.unwrap()).await.unwrap();
        let cached = reply.usage.unwrap().cached_tokens.0;
        replies.push((question, reply.choices[0].text(), cached));
        engine.stop();
        driver.run().await.unwrap();
    }
    let cached: Vec<u32> = replies.iter().map(|(_, _, cached)| *cached).collect();
    assert!(cached[0] == 0 && cached[3] == 0, "{cached:?}");
    assert!(cached[1] > 100 && cached[2] > 100, "{cached:?}");
    for (question, text, _) in &replies {
        let Some((cold, driver)) = load(|_| ()) else {
            return;
        };
        assert_eq!(
            *text,
            super::text(&cold, asked(question)).await,
            "{question}"
        );
        cold.stop();
        driver.run().await.unwrap();
    }
}

#[tokio::test]
async fn another_context_is_another_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let question = "What is the capital of Japan? ".repeat(12);
    for (context, is_found) in [(256, false), (256, true), (192, false)] {
        let Some((engine, driver)) = load(|config| {
            config.prefix_dir = Some(folder.path().to_owned());
            config.context_tokens_max = Some(context);
        }) else {
            return;
        };
        let asked = request(&question, |request| {
            request.output_tokens_max = Some(Tokens(1));
        });
        let cached = ask(&engine, asked).await.usage.unwrap().cached_tokens;
        assert_eq!(cached > Tokens(0), is_found, "{context}");
        engine.stop();
        driver.run().await.unwrap();
    }
}
