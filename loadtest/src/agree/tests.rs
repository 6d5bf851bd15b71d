use super::*;

const CHAT_REPLY: &str = r#"{"choices":[{"message":{"content":"ab"},"logprobs":{"content":[
    {"token":"a","logprob":-0.1,"top_logprobs":[{"token":"a","logprob":-0.1},{"token":"x","logprob":-3.0}]},
    {"token":"b","logprob":-0.6931,"top_logprobs":[{"token":"b","logprob":-0.6931},{"token":"c","logprob":-0.6932}]}
]}}]}"#;

fn said(reply: &str) -> Said {
    Said::read(reply.as_bytes()).unwrap()
}

fn compared(expected: &Said, other: &Said) -> Likeness {
    let mut agreement = Agreement::new("m".to_owned());
    let [expected, other] = [expected, other].map(|said| vec![said.clone()]);
    agreement.take("t", "alone", &expected, &other);
    assert!(agreement.table().contains("| t | alone | 1 |"));
    agreement.lines.remove(0)
}

fn is_near(one: Option<f64>, other: f64) -> bool {
    one.is_some_and(|one| (one - other).abs() < 1e-9)
}

#[test]
fn the_same_answer_agrees_and_shifted_probabilities_are_told() {
    let one = said(CHAT_REPLY);
    let line = compared(&one, &one);
    assert_eq!((line.answers, line.equal, line.tokens), (1, 1, 2));
    assert!(is_near(line.drawn_difference_max, 0.0));
    assert!(is_near(line.top_difference_max, 0.0));

    let line = compared(&one, &said(&CHAT_REPLY.replace("-3.0", "-3.5")));
    assert!(is_near(line.drawn_difference_max, 0.0), "{line:?}");
    assert!(is_near(line.top_difference_max, 0.5), "{line:?}");
}

#[test]
fn an_unfinished_character_at_the_end_may_be_shown_or_not() {
    let one = said(CHAT_REPLY);
    let shown = said(&CHAT_REPLY.replace("\"ab\"", "\"ab\u{fffd}\""));
    assert_eq!(compared(&one, &shown).equal, 1);
    let within = said(&CHAT_REPLY.replace("\"ab\"", "\"a\u{fffd}b\""));
    assert_eq!(compared(&one, &within).equal, 0);
}

#[test]
fn texts_that_part_are_told_with_how_near_it_was() {
    let one = said(CHAT_REPLY);
    let at_tie = said(&CHAT_REPLY.replace("\"ab\"", "\"ac\"").replacen(
        "{\"token\":\"b\"",
        "{\"token\":\"c\"",
        1,
    ));
    let line = compared(&one, &at_tie);
    assert_eq!((line.equal, line.parted_at_ties, line.tokens), (0, 1, 1));

    let elsewhere = said(&CHAT_REPLY.replace("\"ab\"", "\"xb\"").replacen(
        "{\"token\":\"a\"",
        "{\"token\":\"x\"",
        1,
    ));
    let line = compared(&one, &elsewhere);
    assert_eq!((line.equal, line.parted_at_ties, line.tokens), (0, 0, 0));
    assert!(is_near(line.parted_lead_max, 2.9), "{line:?}");
}

#[test]
fn vectors_are_compared_by_their_angle() {
    let vector = |numbers: &str| said(&format!("{{\"data\":[{{\"embedding\":[{numbers}]}}]}}"));
    let line = compared(&vector("1,0"), &vector("2,0"));
    assert!(is_near(line.cosine_min, 1.0));
    let line = compared(&vector("1,0"), &vector("0,3"));
    assert!(is_near(line.cosine_min, 0.0));
    let line = compared(&vector("1,0"), &vector("1,0,0"));
    assert!(is_near(line.cosine_min, 0.0));
}

#[test]
fn an_error_is_no_answer() {
    assert!(Said::read(br#"{"error":{"message":"no"}}"#).is_err());
}

#[test]
fn questions_differ() {
    let questions: std::collections::BTreeSet<String> = (0..50).map(question).collect();
    assert!(questions.len() >= 40, "{}", questions.len());
}
