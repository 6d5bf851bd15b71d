use domain::{Dry, Mirostat, MirostatVersion, OpenSampling, RepeatPenalty};

use super::*;
use crate::fake::{END, FakeVocabulary};

const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, f32::NAN, -1.0];

fn sampling(change: impl FnOnce(&mut Sampling)) -> Sampling {
    let mut sampling = Sampling::default();
    change(&mut sampling);
    sampling
}

/// Which of the five tokens turn up in 500 draws.
fn drawn(sampling: &Sampling) -> Vec<Token> {
    let mut sampler = Sampler::new(sampling, 1.0, 7);
    let mut seen: Vec<Token> = (0..500)
        .filter_map(|_| sampler.draw(&LOGITS, None))
        .collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn each_setting_keeps_the_tokens_it_should() {
    let cases: Vec<(Sampling, Vec<Token>)> = vec![
        (sampling(|s| s.temperature = Some(0.0)), vec![1]),
        (sampling(|_| ()), vec![0, 1, 2, 4]),
        (sampling(|s| s.top_k = Some(1)), vec![1]),
        (sampling(|s| s.top_k = Some(2)), vec![1, 2]),
        (sampling(|s| s.top_p = Some(0.5)), vec![1]),
        (sampling(|s| s.top_p = Some(0.85)), vec![1, 2]),
        (sampling(|s| s.min_p = Some(0.3)), vec![1, 2]),
        (
            sampling(|s| s.logit_bias = vec![(1, -100.0), (2, -100.0)]),
            vec![0, 4],
        ),
        (
            sampling(|s| {
                s.temperature = Some(0.0);
                s.logit_bias = vec![(4, 100.0), (99, 5.0)];
            }),
            vec![4],
        ),
    ];
    for (sampling, tokens) in cases {
        assert_eq!(drawn(&sampling), tokens, "{sampling:?}");
    }
}

#[test]
fn settings_of_open_models_keep_the_tokens_they_should() {
    let open = |change: fn(&mut OpenSampling)| sampling(|s| change(&mut s.open));
    let mirostat = |version, tau| {
        Some(Mirostat {
            version,
            tau,
            eta: 0.0,
        })
    };
    // Shares of 0.0871, 0.6439, 0.2369 and 0.0321; the expected surprise is 0.947.
    let cases: Vec<(Sampling, Vec<Token>)> = vec![
        (open(|s| s.top_n_sigma = Some(1.0)), vec![1, 2]),
        (open(|s| s.typical_p = Some(0.2)), vec![2]),
        (open(|s| s.typical_p = Some(0.7)), vec![1, 2]),
        // Of 1 and 2 the likelier is left out; then 0 is not as likely as min-p wants.
        (
            sampling(|s| {
                s.open.xtc = Some(Xtc {
                    probability: 1.0,
                    threshold: 0.2,
                });
            }),
            vec![0, 2, 4],
        ),
        (
            sampling(|s| {
                s.min_p = Some(0.3);
                s.open.xtc = Some(Xtc {
                    probability: 1.0,
                    threshold: 0.2,
                });
            }),
            vec![2],
        ),
        // One bit, and what surprises by more than twice that, is 0.25.
        (
            sampling(|s| s.open.mirostat = mirostat(MirostatVersion::Two, 1.0)),
            vec![1],
        ),
        (
            sampling(|s| s.open.mirostat = mirostat(MirostatVersion::Two, 2.0)),
            vec![0, 1, 2],
        ),
        (
            sampling(|s| s.open.mirostat = mirostat(MirostatVersion::One, 0.0)),
            vec![1],
        ),
        // Mirostat stands in for the other cuts.
        (
            sampling(|s| {
                s.top_k = Some(1);
                s.open.mirostat = mirostat(MirostatVersion::Two, 2.0);
            }),
            vec![0, 1, 2],
        ),
        // At temperature 0 no cut has a say.
        (
            sampling(|s| {
                s.temperature = Some(0.0);
                s.open.mirostat = mirostat(MirostatVersion::One, 9.0);
                s.open.xtc = Some(Xtc {
                    probability: 1.0,
                    threshold: 0.0,
                });
            }),
            vec![1],
        ),
    ];
    for (sampling, tokens) in cases {
        assert_eq!(drawn(&sampling), tokens, "{sampling:?}");
    }
}

#[test]
fn xtc_strikes_as_often_as_it_should() {
    let asked = sampling(|s| {
        s.open.xtc = Some(Xtc {
            probability: 0.25,
            threshold: 0.3,
        });
    });
    let mut sampler = Sampler::new(&asked, 1.0, 3);
    // Without it both are as likely, with it only the second is left.
    let ones = (0..4_000)
        .filter(|_| sampler.draw(&[0.0, 0.0], None) == Some(1))
        .count();
    assert!(
        (2_350..2_650).contains(&ones),
        "{ones} of 4000, 2500 expected"
    );
}

/// With `tau` bits asked for, mirostat comes near them whatever the logits are.
#[test]
fn mirostat_steers_towards_its_target() {
    let logits: Vec<f32> = (1..=512).map(|rank| -(rank as f32).ln()).collect();
    let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
    for version in [MirostatVersion::One, MirostatVersion::Two] {
        let asked = sampling(|s| {
            s.open.mirostat = Some(Mirostat {
                version,
                tau: 3.0,
                eta: 0.1,
            });
        });
        let mut sampler = Sampler::new(&asked, 1.0, 3);
        let surprises = (0..4_000).map(|_| {
            let token = sampler.draw(&logits, None).unwrap() as usize;
            -(logits[token].exp() / sum).log2()
        });
        let mean = surprises.skip(500).sum::<f32>() / 3_500.0;
        // Measured against all tokens and not those left: somewhat more.
        assert!((3.0..5.0).contains(&mean), "{version:?}: {mean}");
    }
}

fn at_prompt(asked: &Sampling, prompt: &[Token]) -> Sampler {
    let vocabulary: Arc<dyn Vocabulary> = Arc::new(FakeVocabulary::default());
    Sampler::new(asked, 0.0, 0).at_prompt(asked, &vocabulary, &[END], prompt)
}

#[test]
fn the_prompt_and_each_draw_count_as_said_before() {
    let asked = sampling(|s| {
        s.open.repeats = Some(RepeatPenalty {
            penalty: 2.0,
            tokens_max: Some(2),
        });
    });
    let mut sampler = at_prompt(&asked, &[0]);
    let draws: Vec<_> = (0..5)
        .filter_map(|_| sampler.draw(&[3.0, 2.0, 1.6], None))
        .collect();
    // 1.5 2 1.6, then 1.5 1 1.6, then 3 1 0.8, ...
    assert_eq!(draws, [1, 2, 0, 1, 2]);
    let dry = sampling(|s| {
        s.open.dry = Some(Dry {
            multiplier: 1.0,
            base: 1.0,
            allowed: 2,
            tokens_max: None,
            breakers: vec![],
        });
    });
    let mut sampler = at_prompt(&dry, &[7, 8, 0, 9, 7, 8]);
    let draws: Vec<_> = (0..2)
        .filter_map(|_| sampler.draw(&[1.0, 0.5], None))
        .collect();
    assert_eq!(draws, [1, 0], "it would go on as before, once");
}

#[test]
fn the_end_is_never_drawn_where_it_is_ignored() {
    let mut logits = vec![0.0; 300];
    logits[END as usize] = 50.0;
    logits[65] = 40.0;
    let hot = |temperature, bias: Vec<(u32, f32)>| {
        sampling(|s| {
            s.temperature = Some(temperature);
            s.logit_bias = bias;
            s.open.ignores_end = true;
        })
    };
    for asked in [
        hot(0.0, vec![]),
        hot(1.0, vec![]),
        hot(2.0, vec![(END as u32, 100.0)]),
        hot(0.0, vec![(END as u32, 100.0)]),
    ] {
        let mut sampler = at_prompt(&asked, &[]);
        for _ in 0..50 {
            assert_eq!(sampler.draw(&logits, None), Some(65), "{asked:?}");
        }
    }
    // A grammar that wants it has its way.
    let mut sampler = at_prompt(&hot(0.0, vec![]), &[]);
    let mut short = vec![0.0; 64];
    short[3] = 1.0;
    assert_eq!(sampler.draw(&short, Some(&Allowed::of(&[3, 4]))), Some(3));
}

#[test]
fn draws_follow_the_probabilities() {
    let mut sampler = Sampler::new(&Sampling::default(), 1.0, 3);
    let logits = [0.0, 3.0_f32.ln()];
    let ones = (0..4_000)
        .filter(|_| sampler.draw(&logits, None) == Some(1))
        .count();
    assert!(
        (2_850..3_150).contains(&ones),
        "{ones} of 4000, 3000 expected"
    );
}

#[test]
fn a_seed_repeats_its_draws() {
    let draws = |seed| {
        let asked = sampling(|s| s.seed = seed);
        let mut sampler = Sampler::new(&asked, 1.0, 1);
        (0..64)
            .map(|_| sampler.draw(&[0.0; 50], None))
            .collect::<Vec<_>>()
    };
    assert_eq!(draws(Some(-5)), draws(Some(-5)));
    assert_ne!(draws(Some(-5)), draws(Some(5)));
    assert_eq!(draws(None), draws(Some(1)));
}

#[test]
fn nothing_but_what_is_allowed_is_drawn_whatever_the_settings() {
    // The likeliest two, and the one that is no number, are not.
    let allowed = Allowed::of(&[0, 4, 63]);
    let asked = [
        sampling(|s| s.temperature = Some(0.0)),
        sampling(|_| ()),
        sampling(|s| s.top_k = Some(1)),
        sampling(|s| s.top_k = Some(2)),
        sampling(|s| s.top_p = Some(0.01)),
        sampling(|s| s.min_p = Some(1.0)),
        sampling(|s| s.temperature = Some(0.01)),
        sampling(|s| {
            s.temperature = Some(0.0);
            s.logit_bias = vec![(1, 100.0), (4, -100.0)];
        }),
        sampling(|s| s.logit_bias = vec![(0, -100.0), (4, -100.0), (2, 100.0)]),
        sampling(|s| {
            s.presence_penalty = Some(2.0);
            s.frequency_penalty = Some(2.0);
        }),
    ];
    for asked in asked {
        let mut sampler = Sampler::new(&asked, 1.0, 7);
        for _ in 0..100 {
            let token = sampler.draw(&LOGITS, Some(&allowed));
            assert!(matches!(token, Some(0 | 4)), "{token:?} by {asked:?}");
        }
    }
    for temperature in [0.0, 1.0] {
        let mut sampler = Sampler::new(&Sampling::default(), temperature, 7);
        assert_eq!(sampler.draw(&LOGITS, Some(&Allowed::of(&[3]))), None);
    }
}

#[test]
fn penalties_wear_a_token_out() {
    let asked = sampling(|s| {
        s.temperature = Some(0.0);
        s.frequency_penalty = Some(0.6);
    });
    let mut sampler = Sampler::new(&asked, 0.0, 0);
    let drawn: Vec<_> = (0..4)
        .filter_map(|_| sampler.draw(&[0.0, 1.0], None))
        .collect();
    assert_eq!(drawn, [1, 1, 0, 1]);
}

#[test]
fn logits_that_are_no_numbers_give_no_token() {
    for temperature in [0.0, 1.0] {
        let mut sampler = Sampler::new(&Sampling::default(), temperature, 0);
        assert_eq!(sampler.draw(&[f32::NAN, f32::NEG_INFINITY], None), None);
    }
}
